//! Clients that have transactions without pause, and know where each of them ended.
//!
//! A transaction is four statements, each a round trip: it begins, changes an account, notes itself
//! down, and commits. A session that ends before the first of them was answered ends *between*
//! transactions: its client connects again, as any pool does, and nothing has failed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::{connect, eventually};

/// Of each client, so that none waits for another one's row.
const ACCOUNTS: usize = 100;

/// The longest that the clients may be without an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// What clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Work,
    Rest,
    End,
}

/// What a client was told.
#[derive(Debug, Default)]
pub struct Told {
    /// Number and time of each transaction that was acknowledged.
    pub acknowledged: Vec<(i64, Instant)>,
    /// The commit was sent, and not answered.
    pub doubted: usize,
    /// Begun, and not committed: why.
    pub broken: Vec<String>,
    pub connected_again: usize,
}

/// All clients.
pub struct Crowd {
    order: watch::Sender<Order>,
    /// Where whoever has lost its session connects again.
    dsn: watch::Sender<String>,
    at_rest: watch::Sender<usize>,
    acknowledged: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Told>>,
}

impl Crowd {
    /// Connects them; they rest.
    pub async fn start(dsn: &str, clients: usize) -> Self {
        let client = connect(dsn).await.expect("a client can connect");
        let tables = format!(
            "create table accounts (id bigint primary key, balance bigint not null);
             insert into accounts select n, 0 from generate_series(1, {}) n;
             create table done (client int, n bigint, primary key (client, n))",
            ACCOUNTS * clients
        );
        client.batch_execute(&tables).await.expect("the tables can be made");
        let (order, orders) = watch::channel(Order::Rest);
        let (at_rest, _) = watch::channel(0);
        let (again, dsns) = watch::channel(dsn.to_owned());
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for number in 0..clients {
            let client = connect(dsn).await.expect("a client can connect");
            let (dsn, at_rest) = (dsns.clone(), at_rest.clone());
            let one = One { dsn, number, at_rest, acknowledged: acknowledged.clone() };
            tasks.push(tokio::spawn(one.live(client, orders.clone())));
        }
        Self { order, dsn: again, at_rest, acknowledged, tasks }
    }

    /// Returns once each is between two transactions, and stays there.
    pub async fn rests(&self) {
        self.order.send_replace(Order::Rest);
        let (mut at_rest, all) = (self.at_rest.subscribe(), self.tasks.len());
        let rested = tokio::time::timeout(LIMIT, at_rest.wait_for(|count| *count == all)).await;
        assert!(rested.is_ok(), "of {all} clients {} rest", *self.at_rest.borrow());
    }

    /// Whoever loses its session connects again here.
    pub fn is_led_to(&self, dsn: &str) {
        self.dsn.send_replace(dsn.to_owned());
    }

    /// Returns once they are at it.
    pub async fn works(&self) {
        self.order.send_replace(Order::Work);
        let goal = self.acknowledged.load(Ordering::Relaxed) + 500;
        eventually("the clients work", LIMIT, async || {
            let now = self.acknowledged.load(Ordering::Relaxed);
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal} transactions")) }
        })
        .await;
    }

    /// What each was told.
    pub async fn ends(self) -> Vec<Told> {
        self.order.send_replace(Order::End);
        let mut told = Vec::new();
        for task in self.tasks {
            told.push(task.await.expect("a client does not panic"));
        }
        told
    }
}

/// What was acknowledged to each client, and is not there.
pub async fn lost(dsn: &str, told: &[Told]) -> Vec<(usize, i64)> {
    let client = connect(dsn).await.expect("a client can connect");
    let mut lost = Vec::new();
    for (number, told) in told.iter().enumerate() {
        let of = i32::try_from(number).expect("not so many clients");
        let rows = client.query("select n from done where client = $1", &[&of]).await;
        let rows = rows.expect("the table can be read");
        let there: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let gone = told.acknowledged.iter().filter(|(n, _)| !there.contains(n));
        lost.extend(gone.map(|(n, _)| (number, *n)));
    }
    lost
}

/// The longest time between two acknowledgements to anybody of these clients, within a span.
pub fn longest_pause(told: &[Told], from: Instant, to: Instant) -> Duration {
    let all = told.iter().flat_map(|told| told.acknowledged.iter().map(|(_, at)| *at));
    let mut within: Vec<_> = all.filter(|at| (from..=to).contains(at)).chain([from, to]).collect();
    within.sort_unstable();
    within.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// One client.
struct One {
    dsn: watch::Receiver<String>,
    number: usize,
    at_rest: watch::Sender<usize>,
    acknowledged: Arc<AtomicU64>,
}

impl One {
    async fn live(self, client: Client, mut orders: watch::Receiver<Order>) -> Told {
        let mut told = Told::default();
        let mut client = Some(client);
        for n in 0.. {
            if self.order(&mut orders).await != Order::Work {
                break;
            }
            let session = match client.take() {
                Some(client) => Ok(client),
                None => self.connect_again().await,
            };
            match session {
                Ok(session) => {
                    client = self.transact(&session, n, &mut told).await.then_some(session);
                }
                // Told by whoever looks whether there were pauses.
                Err(error) => told.broken.push(format!("no connection: {error}")),
            }
        }
        told
    }

    /// What is to be done, once that is not to rest.
    async fn order(&self, orders: &mut watch::Receiver<Order>) -> Order {
        // Looked at once: one that came to rest between two looks would not be counted.
        let order = *orders.borrow();
        if order != Order::Rest {
            return order;
        }
        self.at_rest.send_modify(|count| *count += 1);
        let order = orders.wait_for(|order| *order != Order::Rest).await;
        self.at_rest.send_modify(|count| *count -= 1);
        order.map_or(Order::End, |order| *order)
    }

    async fn connect_again(&self) -> Result<Client, String> {
        let dsn = self.dsn.borrow().clone();
        connect(&dsn).await
    }

    /// Whether the session goes on.
    async fn transact(&self, client: &Client, n: i64, told: &mut Told) -> bool {
        if client.batch_execute("begin").await.is_err() {
            told.connected_again += 1;
            return false;
        }
        let number = self.number;
        let account = number * ACCOUNTS + told.acknowledged.len() % ACCOUNTS + 1;
        let change = format!("update accounts set balance = balance + 1 where id = {account}");
        let note = format!("insert into done values ({number}, {n})");
        for statement in [&change, &note] {
            if let Err(error) = client.batch_execute(statement).await {
                let words =
                    error.as_db_error().map_or_else(|| error.to_string(), |e| e.to_string());
                told.broken.push(words);
                // A client that left its transaction open would hold up the drain.
                return client.batch_execute("rollback").await.is_ok();
            }
        }
        match client.batch_execute("commit").await {
            Ok(()) => {
                told.acknowledged.push((n, Instant::now()));
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(_) => {
                told.doubted += 1;
                false
            }
        }
    }
}
