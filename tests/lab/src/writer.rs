//! Writers at the write address: numbered rows, and which of them were acknowledged when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::Client;

use crate::client::Dialer;
use crate::cluster::Cluster;
use crate::plan::WRITE;
use crate::resident::{Over, Resident};

/// The longest that a client waits for an answer: longer than a failover, and short enough to try
/// again after a cut between itself and its proxy.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// Between two rows of one writer: a steady load that leaves room for everything else.
const PACE: Duration = Duration::from_millis(5);

/// Between two tries to connect.
const RECONNECT: Duration = Duration::from_millis(50);

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub writer: i32,
    pub number: i64,
    pub begun: Instant,
    pub ended: Instant,
}

/// What all writers were told. Cheap to copy; every writer has one.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Entries>>);

/// See [`Ledger`].
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// In the order of their acknowledgements.
    pub acknowledged: Vec<Ack>,
    /// Writes that were begun and not acknowledged: they may be there or not.
    pub unknown: u64,
    /// Each distinct answer, and how often it came.
    pub errors: BTreeMap<String, u64>,
}

impl Ledger {
    fn write(&self, entry: impl FnOnce(&mut Entries)) {
        // Entries are added whole: a panic leaves none half done.
        entry(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What was entered so far.
    pub fn entries(&self) -> Entries {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many writes were acknowledged, and how many have an unknown outcome.
    pub fn counts(&self) -> (usize, u64) {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (entries.acknowledged.len(), entries.unknown)
    }

    /// When the first write that was begun after `since` was acknowledged.
    pub fn first_begun_after(&self, since: Instant) -> Option<Instant> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest_first = entries.acknowledged.iter().rev().take_while(|ack| ack.ended >= since);
        newest_first.filter(|ack| ack.begun >= since).map(|ack| ack.ended).min()
    }
}

impl Entries {
    /// The longest time without an acknowledgement that touches `from` to `to`.
    pub fn longest_pause_between(&self, from: Instant, to: Instant) -> Duration {
        let ends: Vec<Instant> = self.acknowledged.iter().map(|ack| ack.ended).collect();
        let touching = ends.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
        touching.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// The longest time without an acknowledgement.
    pub fn longest_pause(&self) -> Duration {
        let ends = |ack: Option<&Ack>| ack.map(|ack| ack.ended);
        match (ends(self.acknowledged.first()), ends(self.acknowledged.last())) {
            (Some(first), Some(last)) => self.longest_pause_between(first, last),
            (None, _) | (_, None) => Duration::ZERO,
        }
    }

    /// Acknowledged, but not among the rows that are there.
    pub fn lost(&self, there: &BTreeSet<(i32, i64)>) -> Vec<Ack> {
        let missing = |ack: &&Ack| !there.contains(&(ack.writer, ack.number));
        self.acknowledged.iter().filter(missing).copied().collect()
    }
}

/// The table that the writers share.
pub const CREATE: &str = "create table if not exists written \
    (writer int not null, number bigint not null, primary key (writer, number))";

/// Reads all rows.
///
/// # Errors
///
/// The server's.
pub async fn rows(client: &Client) -> Result<BTreeSet<(i32, i64)>, tokio_postgres::Error> {
    let rows = client.query("select writer, number from written", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Starts `count` writers on the clients' host, each at the next proxy.
///
/// # Errors
///
/// A thread cannot be started.
pub fn start(
    cluster: &Cluster,
    count: usize,
    ledger: &Ledger,
    over: &Over,
) -> anyhow::Result<Vec<Resident<()>>> {
    let (network, hosts) = (cluster.network(), cluster.hosts());
    let proxies = hosts.proxies.iter().cycle();
    let mut residents = Vec::new();
    for (writer, proxy) in (1..).zip(proxies.take(count)) {
        let address = SocketAddr::from((network.address(*proxy), WRITE));
        let dialer = Dialer::new(cluster.root(), address, PATIENCE)?;
        let (ledger, over) = (ledger.clone(), over.clone());
        let work = move || write(writer, dialer, ledger, over);
        residents.push(Resident::settle(network.namespace(hosts.clients), work)?);
    }
    Ok(residents)
}

async fn write(writer: i32, dialer: Dialer, ledger: Ledger, mut over: Over) {
    let complain = |error: &anyhow::Error| {
        ledger.write(|entries| *entries.errors.entry(format!("{error:#}")).or_default() += 1);
    };
    let mut number = 0;
    while !over.is_over() {
        let client = match over.unless(dialer.connect()).await {
            Some(Ok(client)) => client,
            Some(Err(error)) => {
                complain(&error);
                over.unless(sleep(RECONNECT)).await;
                continue;
            }
            None => return,
        };
        while !client.is_closed() && !over.is_over() {
            number += 1;
            let begun = Instant::now();
            let insert = format!("insert into written values ({writer}, {number})");
            // One statement in the simple protocol: one round trip, one transaction.
            let answer = over.unless(dialer.limited(client.batch_execute(&insert))).await;
            let ended = Instant::now();
            match answer {
                Some(Ok(())) => {
                    let ack = Ack { writer, number, begun, ended };
                    ledger.write(|entries| entries.acknowledged.push(ack));
                }
                Some(Err(error)) => {
                    ledger.write(|entries| entries.unknown += 1);
                    complain(&error);
                    break;
                }
                // The laboratory's own end is no failure of the cluster.
                None => return,
            }
            over.unless(sleep(PACE)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(times_ms: &[(u64, u64)]) -> (Instant, Entries) {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let acks = (1..).zip(times_ms).map(|(number, (begun, ended))| Ack {
            writer: 1,
            number,
            begun: at(*begun),
            ended: at(*ended),
        });
        (zero, Entries { acknowledged: acks.collect(), ..Entries::default() })
    }

    #[test]
    fn a_pause_is_counted_where_it_is_touched() {
        let (zero, entries) = entries(&[(0, 10), (10, 20), (20, 920), (920, 930)]);
        let at = |ms| zero + Duration::from_millis(ms);
        assert_eq!(entries.longest_pause(), Duration::from_millis(900));
        assert_eq!(entries.longest_pause_between(at(925), at(2_000)), Duration::from_millis(10));
        assert_eq!(entries.longest_pause_between(at(500), at(501)), Duration::from_millis(900));
    }

    #[test]
    fn a_write_that_was_begun_before_the_end_of_a_fault_proves_no_recovery() {
        let (zero, entries) = entries(&[(0, 10), (20, 100), (90, 120)]);
        let ledger = Ledger(Arc::new(Mutex::new(entries)));
        let at = |ms| zero + Duration::from_millis(ms);
        assert_eq!(ledger.first_begun_after(at(50)), Some(at(120)));
        assert_eq!(ledger.first_begun_after(at(95)), None);
    }

    #[test]
    fn what_is_acknowledged_and_not_there_is_lost() {
        let (_, entries) = entries(&[(0, 1), (1, 2)]);
        let lost = entries.lost(&BTreeSet::from([(1, 2), (1, 3)]));
        assert_eq!(lost.iter().map(|ack| ack.number).collect::<Vec<_>>(), [1]);
    }
}
