//! A client that writes numbered rows without pause and remembers which were acknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

/// How long a client waits before it connects again.
const RECONNECT: Duration = Duration::from_millis(5);

/// The longest that one attempt to connect may take: longer than the proxy holds a client.
const CONNECT_LIMIT: Duration = Duration::from_secs(40);

/// A connection whose other half runs by itself.
///
/// # Errors
///
/// What the server, or the way to it, said.
pub async fn connect(dsn: &str) -> Result<Client, String> {
    let connecting = tokio_postgres::connect(dsn, NoTls);
    let (client, connection) = tokio::time::timeout(CONNECT_LIMIT, connecting)
        .await
        .map_err(|_| format!("no connection within {CONNECT_LIMIT:?}"))?
        .map_err(|error| describe(&error))?;
    // It ends with the client, or with the server: the client is told in both cases.
    tokio::spawn(connection);
    Ok(client)
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(answer) => format!("{} {}", answer.code().code(), answer.message()),
        None => error.to_string(),
    }
}

/// Writes rows 1, 2, 3, … each in a transaction of its own, until it is stopped.
#[derive(Debug)]
pub struct Writer {
    dsn: String,
    table: String,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<Log>,
}

/// What a writer was told.
#[derive(Debug, Default)]
struct Log {
    /// Number and time of each acknowledged row.
    acknowledged: Vec<(i64, Instant)>,
    /// Rows whose answer never came.
    doubted: Vec<i64>,
    errors: Vec<String>,
}

/// What a writer was told, held against what is there.
#[derive(Debug)]
pub struct Report {
    pub acknowledged: usize,
    /// Acknowledged, but not there: must be empty.
    pub lost: Vec<i64>,
    pub doubted: usize,
    /// Each distinct error, in the order of its first appearance.
    pub errors: Vec<String>,
    /// The longest time between two acknowledged rows.
    pub longest_pause: Duration,
    /// When the longest pause began, since the first acknowledged row.
    pub pause_began: Duration,
    /// When each acknowledged row was acknowledged.
    pub times: Vec<Instant>,
}

impl Report {
    /// The longest time between two acknowledged rows, of which one at least came between `from`
    /// and `to`.
    pub fn longest_pause_between(&self, from: Instant, to: Instant) -> Duration {
        let within = self.times.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
        within.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

impl Writer {
    /// Creates the table, then writes into it from a task of its own.
    pub async fn start(dsn: &str, table: &str) -> Self {
        let client = connect(dsn).await.expect("the cluster accepts a connection");
        let create = format!("create table if not exists {table} (n bigint primary key)");
        client.batch_execute(&create).await.expect("the table can be made");
        client.batch_execute(&format!("truncate {table}")).await.expect("the table can be emptied");
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(write(
            dsn.to_owned(),
            table.to_owned(),
            client,
            stop.clone(),
            acknowledged.clone(),
        ));
        Self { dsn: dsn.to_owned(), table: table.to_owned(), stop, acknowledged, task }
    }

    /// How many rows were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` further rows are acknowledged.
    pub async fn goes_on(&self, more: u64, limit: Duration) {
        let goal = self.acknowledged() + more;
        crate::eventually(&format!("{more} more rows are acknowledged"), limit, async || {
            let now = self.acknowledged();
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal} rows")) }
        })
        .await;
    }

    /// Waits for `time`, in which rows are acknowledged with no pause longer than `at_most`.
    pub async fn goes_on_for(&self, time: Duration, at_most: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.goes_on(1, at_most).await;
        }
    }

    /// Ends the writing and looks which rows are there.
    pub async fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let log = self.task.await.expect("the writer does not panic");
        let client = connect(&self.dsn).await.expect("the cluster accepts a connection");
        let rows = client.query(&format!("select n from {}", self.table), &[]).await;
        let there: BTreeSet<i64> =
            rows.expect("the rows can be read").iter().map(|row| row.get(0)).collect();
        let numbers = log.acknowledged.iter().map(|(number, _)| *number);
        let pauses = log.acknowledged.windows(2).map(|pair| (pair[1].1 - pair[0].1, pair[0].1));
        let (longest_pause, began) = pauses
            .max_by_key(|(pause, _)| *pause)
            .unwrap_or_else(|| (Duration::ZERO, Instant::now()));
        let first = log.acknowledged.first().map_or(began, |(_, at)| *at);
        let mut errors = Vec::new();
        for error in log.errors {
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
        Report {
            acknowledged: log.acknowledged.len(),
            lost: numbers.filter(|number| !there.contains(number)).collect(),
            doubted: log.doubted.len(),
            errors,
            longest_pause,
            pause_began: began.saturating_duration_since(first),
            times: log.acknowledged.iter().map(|(_, at)| *at).collect(),
        }
    }
}

async fn write(
    dsn: String,
    table: String,
    mut client: Client,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> Log {
    let mut log = Log::default();
    for number in 1.. {
        // One statement in the simple protocol: one round trip, one transaction.
        let insert = format!("insert into {table} values ({number})");
        match client.batch_execute(&insert).await {
            Ok(()) => {
                log.acknowledged.push((number, Instant::now()));
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                log.doubted.push(number);
                log.errors.push(describe(&error));
                while client.is_closed() && !stop.load(Ordering::Relaxed) {
                    match connect(&dsn).await {
                        Ok(new) => client = new,
                        Err(error) => {
                            log.errors.push(error);
                            tokio::time::sleep(RECONNECT).await;
                        }
                    }
                }
            }
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    log
}
