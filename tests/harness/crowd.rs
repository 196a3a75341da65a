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
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for number in 0..clients {
            let client = connect(dsn).await.expect("a client can connect");
            let one = One { dsn: dsn.to_owned(), number, acknowledged: acknowledged.clone() };
            tasks.push(tokio::spawn(one.live(client, orders.clone())));
        }
        Self { order, acknowledged, tasks }
    }

    /// Returns once nothing is acknowledged any more.
    pub async fn rests(&self) {
        self.order.send_replace(Order::Rest);
        let mut before = self.acknowledged.load(Ordering::Relaxed);
        eventually("the clients rest", LIMIT, async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.acknowledged.load(Ordering::Relaxed);
            if std::mem::replace(&mut before, now) == now { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
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

/// One client.
struct One {
    dsn: String,
    number: usize,
    acknowledged: Arc<AtomicU64>,
}

impl One {
    async fn live(self, mut client: Client, mut orders: watch::Receiver<Order>) -> Told {
        let mut told = Told::default();
        for n in 0.. {
            let order = orders.wait_for(|order| *order != Order::Rest).await.map(|order| *order);
            if !matches!(order, Ok(Order::Work)) {
                break;
            }
            if !self.transact(&client, n, &mut told).await {
                match connect(&self.dsn).await {
                    Ok(new) => client = new,
                    // Told by whoever looks whether there were pauses.
                    Err(error) => told.broken.push(format!("no connection: {error}")),
                }
            }
        }
        told
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
