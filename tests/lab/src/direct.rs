//! Writers on the instances' own hosts, at the instances' own addresses: no proxy, no cut and no
//! topology keeps them away from a primary that nobody else can reach.
//!
//! Each row says on which timeline it was written: the one thing by which PostgreSQL itself tells
//! one assignment of the primary from another.
//!
//! **Invariant:** one clock. All of them run in one process, so that their times compare.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::client::Dialer;
use crate::cluster::Cluster;
use crate::plan::POSTGRES;
use crate::resident::{Over, Resident};

/// Longer than any fault: a commit that waits for its sync is not given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two rows, or two tries.
const PACE: Duration = Duration::from_millis(40);

/// A write that an instance acknowledged to a client of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectAck {
    pub instance: String,
    pub number: i64,
    /// As in the name of a WAL file: eight hexadecimal digits.
    pub timeline: String,
    pub begun: Instant,
    pub ended: Instant,
}

/// The table that they share.
pub const CREATE: &str = "create table if not exists written_directly \
    (instance text not null, number bigint not null, primary key (instance, number))";

/// Reads all rows.
///
/// # Errors
///
/// The server's.
pub async fn rows(client: &Client) -> Result<BTreeSet<(String, i64)>, tokio_postgres::Error> {
    let rows = client.query("select instance, number from written_directly", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Starts one writer on each machine.
///
/// # Errors
///
/// A thread cannot be started.
pub fn start(cluster: &Cluster, over: &Over) -> anyhow::Result<Vec<Resident<Vec<DirectAck>>>> {
    let network = cluster.network();
    let mut residents = Vec::new();
    for host in &cluster.hosts().machines {
        let instance = network.name(*host).to_owned();
        let address = SocketAddr::from((network.address(*host), POSTGRES));
        let dialer = Dialer::new(cluster.root(), address, PATIENCE)?;
        let over = over.clone();
        let work = move || write(instance, dialer, over);
        residents.push(Resident::settle(network.namespace(*host), work)?);
    }
    Ok(residents)
}

async fn write(instance: String, dialer: Dialer, mut over: Over) -> Vec<DirectAck> {
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while !over.is_over() {
        // Whatever keeps it away (a standby, a server that is down) may be over soon.
        let Some(Ok(client)) = over.unless(dialer.connect()).await else {
            over.unless(sleep(PACE)).await;
            continue;
        };
        while !client.is_closed() && !over.is_over() {
            number += 1;
            let begun = Instant::now();
            let insert = format!(
                "insert into written_directly values ('{instance}', {number}) \
                 returning substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
            );
            let answer = over.unless(dialer.limited(client.simple_query(&insert))).await;
            let ended = Instant::now();
            if let Some(Ok(messages)) = answer
                && let Some(timeline) = timeline(&messages)
            {
                let instance = instance.clone();
                acknowledged.push(DirectAck { instance, number, timeline, begun, ended });
            }
            over.unless(sleep(PACE)).await;
        }
    }
    acknowledged
}

fn timeline(messages: &[SimpleQueryMessage]) -> Option<String> {
    messages.iter().find_map(|message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        row.get(0).map(str::to_owned)
    })
}

/// Acknowledgements that could not have come from one primary after the other.
///
/// Two rules: one timeline has one instance; and nothing that was begun after a timeline had its
/// first acknowledgement is acknowledged on an earlier one.
pub fn overlaps(acknowledged: &[DirectAck]) -> Vec<String> {
    let mut by_timeline: BTreeMap<&str, Vec<&DirectAck>> = BTreeMap::new();
    for ack in acknowledged {
        by_timeline.entry(&ack.timeline).or_default().push(ack);
    }
    let mut found = Vec::new();
    let mut newer: Option<&DirectAck> = None;
    for (timeline, acks) in by_timeline.iter().rev() {
        let owners: BTreeSet<&str> = acks.iter().map(|ack| ack.instance.as_str()).collect();
        if owners.len() > 1 {
            found.push(format!("timeline {timeline} was written to by {owners:?}"));
        }
        let late = |ack: &&&DirectAck| newer.is_some_and(|newer| ack.begun > newer.ended);
        if let (Some(late), Some(newer)) = (acks.iter().find(late), newer) {
            found.push(format!(
                "{} acknowledged on timeline {timeline} what was begun {:?} after {} had \
                 acknowledged on timeline {}",
                late.instance,
                late.begun - newer.ended,
                newer.instance,
                newer.timeline
            ));
        }
        let first = acks.iter().min_by_key(|ack| ack.ended).copied();
        newer = [newer, first].into_iter().flatten().min_by_key(|ack| ack.ended);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(of: &[(&str, &str, u64, u64)]) -> Vec<DirectAck> {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        (1..)
            .zip(of)
            .map(|(number, (instance, timeline, begun, ended))| DirectAck {
                instance: (*instance).to_owned(),
                number,
                timeline: (*timeline).to_owned(),
                begun: at(*begun),
                ended: at(*ended),
            })
            .collect()
    }

    #[test]
    fn one_primary_after_the_other_is_fine() {
        #[rustfmt::skip]
        let fine = acks(&[
            ("pg-1", "00000001", 0, 10),
            // Sent before the successor's first, answered after it.
            ("pg-1", "00000001", 10, 40),
            ("pg-2", "00000002", 20, 30),
            ("pg-1", "00000005", 50, 60),
        ]);
        assert_eq!(overlaps(&fine), Vec::<String>::new());
    }

    #[test]
    fn two_primaries_at_once_are_found() {
        #[rustfmt::skip]
        let broken = acks(&[
            ("pg-2", "00000002", 20, 30),
            ("pg-3", "00000003", 35, 36),
            ("pg-1", "00000001", 31, 40),
        ]);
        let found = overlaps(&broken);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("pg-1 acknowledged on timeline 00000001"), "{found:?}");
    }

    #[test]
    fn two_instances_on_one_timeline_are_found() {
        let found = overlaps(&acks(&[("pg-1", "00000002", 0, 1), ("pg-2", "00000002", 2, 3)]));
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
