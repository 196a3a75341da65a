//! Registers at the write address: is every read as new as everything that was known before it?
//!
//! Each register has one writer, which writes greater and greater numbers, and readers at every
//! proxy. For such a register linearizability is three sentences ([`stale`]), checked over the
//! whole recorded history; no search is needed.
//!
//! **Invariant:** one clock, as for [`crate::direct`]. A write without an answer may take effect at
//! any time, but never takes a greater number back (`greatest`).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::SimpleQueryMessage;

use crate::client::Dialer;
use crate::cluster::Cluster;
use crate::plan::WRITE;
use crate::resident::{Over, Resident};
use crate::writer::PATIENCE;

/// Between two operations of one client, and two tries to connect.
const PACE: Duration = Duration::from_millis(8);
const RECONNECT: Duration = Duration::from_millis(50);

/// The table of all registers.
pub const CREATE: &str = "create table if not exists registers \
    (id integer primary key, value bigint not null); \
    insert into registers select id, 0 from generate_series(0, 99) as id on conflict do nothing";

/// A write to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    pub value: i64,
    pub begun: Instant,
    /// None: no answer came, it may have happened or not.
    pub acknowledged: Option<Instant>,
}

/// A read that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub value: i64,
    pub begun: Instant,
    pub ended: Instant,
}

/// Everything that was done with one register.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub writes: Vec<Write>,
    pub reads: Vec<Read>,
}

/// A history that is being written, by several clients.
type Shared = Arc<Mutex<History>>;

/// Registers in use, and who uses them.
#[derive(Debug, Default)]
pub struct Registers {
    histories: Vec<Shared>,
    residents: Vec<Resident<()>>,
}

impl Registers {
    /// One register for each proxy to write through, read through every proxy.
    ///
    /// # Errors
    ///
    /// A thread cannot be started.
    pub fn start(cluster: &Cluster, over: &Over) -> anyhow::Result<Self> {
        let (network, hosts) = (cluster.network(), cluster.hosts());
        let dialer = |proxy| {
            let address = SocketAddr::from((network.address(proxy), WRITE));
            Dialer::new(cluster.root(), address, PATIENCE)
        };
        let clients = network.namespace(hosts.clients);
        let mut started = Self::default();
        for (id, writers_proxy) in hosts.proxies.iter().enumerate() {
            let history = Shared::default();
            started.histories.push(history.clone());
            let mut client =
                Client { id, dialer: dialer(*writers_proxy)?, history: history.clone() };
            let mut until = over.clone();
            let work = move || async move { client.write(&mut until).await };
            started.residents.push(Resident::settle(clients, work)?);
            for readers_proxy in &hosts.proxies {
                let mut client =
                    Client { id, dialer: dialer(*readers_proxy)?, history: history.clone() };
                let mut until = over.clone();
                let work = move || async move { client.read(&mut until).await };
                started.residents.push(Resident::settle(clients, work)?);
            }
        }
        Ok(started)
    }

    /// Every history, once it is over.
    ///
    /// # Errors
    ///
    /// A client panicked.
    pub async fn end(self) -> anyhow::Result<Vec<History>> {
        for resident in self.residents {
            resident.end().await?;
        }
        let take = |history: &Shared| {
            std::mem::take(&mut *history.lock().unwrap_or_else(PoisonError::into_inner))
        };
        Ok(self.histories.iter().map(take).collect())
    }
}

/// One client of one register.
struct Client {
    id: usize,
    dialer: Dialer,
    history: Shared,
}

impl Client {
    async fn write(&mut self, over: &mut Over) {
        let mut value = 0;
        while let Some(connected) = self.connect(over).await {
            while !connected.is_closed() && !over.is_over() {
                value += 1;
                let statement = format!(
                    "update registers set value = greatest(value, {value}) where id = {}",
                    self.id
                );
                let begun = Instant::now();
                let answer = self.dialer.limited(connected.batch_execute(&statement));
                let answer = over.unless(answer).await;
                let acknowledged = matches!(answer, Some(Ok(()))).then(Instant::now);
                self.record(|history| history.writes.push(Write { value, begun, acknowledged }));
                if acknowledged.is_none() {
                    break;
                }
                over.unless(sleep(PACE)).await;
            }
        }
    }

    async fn read(&mut self, over: &mut Over) {
        let statement = format!("select value from registers where id = {}", self.id);
        while let Some(connected) = self.connect(over).await {
            while !connected.is_closed() && !over.is_over() {
                let begun = Instant::now();
                let answer = self.dialer.limited(connected.simple_query(&statement));
                let Some(Ok(messages)) = over.unless(answer).await else { break };
                let ended = Instant::now();
                if let Some(value) = value(&messages) {
                    self.record(|history| history.reads.push(Read { value, begun, ended }));
                }
                over.unless(sleep(PACE)).await;
            }
        }
    }

    /// Tries until it succeeds; none where it is over.
    async fn connect(&self, over: &mut Over) -> Option<tokio_postgres::Client> {
        while !over.is_over() {
            if let Some(Ok(client)) = over.unless(self.dialer.connect()).await {
                return Some(client);
            }
            over.unless(sleep(RECONNECT)).await;
        }
        None
    }

    fn record(&self, entry: impl FnOnce(&mut History)) {
        entry(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn value(messages: &[SimpleQueryMessage]) -> Option<i64> {
    messages.iter().find_map(|message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        row.get(0)?.parse().ok()
    })
}

/// The reads of a history that break linearizability, and how.
///
/// A read is right where it shows (1) at least every write that was acknowledged before it began,
/// (2) at least what any read showed that had ended before it began, and (3) nothing that was not
/// begun before it ended. For one writer of growing numbers that is also enough.
pub fn stale(history: &History) -> Vec<String> {
    let acknowledged = history.writes.iter().filter_map(|w| Some((w.acknowledged?, w.value)));
    let acknowledged = Known::of(acknowledged);
    let read = Known::of(history.reads.iter().map(|read| (read.ended, read.value)));
    let begun = Known::of(history.writes.iter().map(|write| (write.begun, write.value)));
    let judge = |r: &Read| {
        if acknowledged.before(r.begun) > r.value {
            let known = acknowledged.before(r.begun);
            return Some(format!("a read showed {}, but {known} was acknowledged before", r.value));
        }
        if read.before(r.begun) > r.value {
            let known = read.before(r.begun);
            return Some(format!("a read showed {}, but {known} was read before", r.value));
        }
        if begun.before(r.ended) < r.value {
            return Some(format!("a read showed {}, which nobody had begun to write", r.value));
        }
        None
    };
    history.reads.iter().filter_map(judge).collect()
}

/// The greatest number that is known at a time.
struct Known(Vec<(Instant, i64)>);

impl Known {
    fn of(facts: impl Iterator<Item = (Instant, i64)>) -> Self {
        let mut facts: Vec<(Instant, i64)> = facts.collect();
        facts.sort_unstable();
        let mut greatest = 0;
        for (_, value) in &mut facts {
            greatest = greatest.max(*value);
            *value = greatest;
        }
        Self(facts)
    }

    /// 0, as in the beginning, where nothing is.
    fn before(&self, time: Instant) -> i64 {
        let count = self.0.partition_point(|(at, _)| *at < time);
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes (value, begun, acknowledged or 0) and reads (value, begun, ended).
    fn history(writes: &[(i64, u64, u64)], reads: &[(i64, u64, u64)]) -> History {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        History {
            writes: writes
                .iter()
                .map(|(value, begun, ended)| Write {
                    value: *value,
                    begun: at(*begun),
                    acknowledged: (*ended > 0).then(|| at(*ended)),
                })
                .collect(),
            reads: reads
                .iter()
                .map(|(value, begun, ended)| Read {
                    value: *value,
                    begun: at(*begun),
                    ended: at(*ended),
                })
                .collect(),
        }
    }

    #[test]
    fn reads_that_are_new_enough_are_acquitted() {
        #[rustfmt::skip]
        let fine = history(
            &[(1, 10, 20), (2, 30, 40), (3, 50, 0), (4, 90, 100)],
            // Beside a write either value will do; the unknown one may show up late, and stays.
            &[(0, 0, 15), (1, 0, 15), (1, 21, 29), (1, 35, 45), (2, 35, 36), (2, 60, 61), (3, 70, 71), (3, 80, 95)],
        );
        assert_eq!(stale(&fine), Vec::<String>::new());
    }

    #[test]
    fn each_of_the_three_sentences_convicts() {
        #[rustfmt::skip]
        let cases = [
            ("acknowledged before",      history(&[(1, 10, 20)], &[(0, 21, 22)])),
            ("was read before",          history(&[(1, 10, 0)], &[(1, 15, 16), (0, 17, 18)])),
            ("nobody had begun to write", history(&[(1, 10, 20)], &[(1, 1, 9)])),
        ];
        for (words, history) in cases {
            let found = stale(&history);
            assert_eq!(found.len(), 1, "{words}: {found:?}");
            assert!(found[0].contains(words), "{found:?}");
        }
    }
}
