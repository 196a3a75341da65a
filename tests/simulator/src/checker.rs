//! What must hold: looked at from outside, never in the words of the machine.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use dugong_topology::{Generation, InstanceId, Version};

use crate::client::View;
use crate::moment::Moment;
use crate::postgres::{Entry, OWN};
use crate::store::Store;
use crate::wal::lsn;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Durability: acknowledged, and not in the primary's WAL.
    Lost { primary: InstanceId, writes: Vec<Entry> },
    /// Single writer: a commit was acknowledged here that no later primary can have.
    TwoWriters { instance: InstanceId, generation: Generation },
    /// Fresh reads: a read did not show what was acknowledged before it began.
    Stale { at: Moment, missing: Entry },
    /// What was seen stays: a later read did not show it.
    Vanished { at: Moment, missing: Entry },
    /// A read showed what nobody had written yet, or what a client was told had not happened.
    Invented { at: Moment, entry: Entry },
    /// Monotonic topology.
    TopologyBack { controller: InstanceId, from: Version, to: Version },
    /// One version of the topology, two contents.
    TopologyForked { version: Version },
    /// The machine, or the world, found itself in a state that cannot be.
    Panicked { words: String },
    /// Liveness: no write was acknowledged for too long after the last fault.
    NotWritable { healed: Moment },
    /// Liveness: somebody is still missing in the chain.
    NotWhole { healed: Moment },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { primary, writes } => {
                write!(
                    f,
                    "lost: {primary} is primary without {} acknowledged writes, the first is {}",
                    writes.len(),
                    writes[0]
                )
            }
            Self::TwoWriters { instance, generation } => {
                write!(
                    f,
                    "two writers: {instance} acknowledged a commit that generation {generation} does not have"
                )
            }
            Self::Stale { at, missing } => write!(
                f,
                "stale: a read that ended at {at} did not show {missing}, which had been acknowledged before it began"
            ),
            Self::Vanished { at, missing } => write!(
                f,
                "vanished: a read that ended at {at} did not show {missing}, which an earlier one had shown"
            ),
            Self::Invented { at, entry } => write!(
                f,
                "invented: a read that ended at {at} showed {entry}, which cannot have been written"
            ),
            Self::TopologyBack { controller, from, to } => {
                write!(f, "the topology of {controller} went back from {from:?} to {to:?}")
            }
            Self::TopologyForked { version } => {
                write!(f, "two topologies have the version {version:?}")
            }
            Self::Panicked { words } => write!(f, "panicked: {words}"),
            Self::NotWritable { healed } => write!(
                f,
                "not writable: nothing was acknowledged since the last fault was over at {healed}"
            ),
            Self::NotWhole { healed } => write!(
                f,
                "not whole: somebody is missing since the last fault was over at {healed}"
            ),
        }
    }
}

/// A write, as its client knows it.
#[derive(Clone, Copy, Debug)]
struct Write {
    begun: Moment,
    /// None: it was never acknowledged.
    acknowledged: Option<Moment>,
    impossible: bool,
}

/// A read, as its client knows it.
#[derive(Clone, Debug)]
struct Read {
    begun: Moment,
    ended: Moment,
    wal: Rc<Vec<Entry>>,
    visible: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Checker {
    writes: BTreeMap<Entry, Write>,
    reads: Vec<Read>,
    pub last_acknowledged: Moment,
    published: BTreeMap<(usize, u32), Version>,
    views: BTreeMap<Version, View>,
}

impl Checker {
    pub(crate) fn begun(&mut self, entry: Entry, now: Moment) {
        self.writes.insert(entry, Write { begun: now, acknowledged: None, impossible: false });
    }

    pub(crate) fn acknowledged_at(&mut self, entry: Entry, now: Moment) {
        if let Some(write) = self.writes.get_mut(&entry) {
            write.acknowledged = Some(now);
            self.last_acknowledged = now;
        }
    }

    pub(crate) fn never_happened(&mut self, entry: Entry) {
        if let Some(write) = self.writes.get_mut(&entry) {
            write.impossible = true;
        }
    }

    pub(crate) fn read(
        &mut self,
        begun: Moment,
        ended: Moment,
        wal: Rc<Vec<Entry>>,
        visible: usize,
    ) {
        self.reads.push(Read { begun, ended, wal, visible });
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads.len() as u64
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.writes.values().filter(|write| write.acknowledged.is_some()).count() as u64
    }

    /// The first acknowledgement after `moment`.
    pub(crate) fn first_after(&self, moment: Moment) -> Moment {
        let after = self.writes.values().filter_map(|w| w.acknowledged).filter(|at| *at > moment);
        after.min().unwrap_or(moment)
    }

    /// Single writer: what is released now is in the WAL of every later primary, or its releaser is
    /// still the primary of the record.
    pub(crate) fn may_release(
        &self,
        store: &Store,
        id: &InstanceId,
        upto: usize,
    ) -> Result<(), Violation> {
        match store.record() {
            Some(record) if record.primary != *id && lsn(upto) > record.began_at.lsn => {
                Err(Violation::TwoWriters { instance: id.clone(), generation: record.generation })
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn published(
        &mut self,
        node: usize,
        epoch: u32,
        view: &View,
    ) -> Result<(), Violation> {
        let last = self.published.entry((node, epoch)).or_insert(view.version);
        if view.version < *last {
            let controller = format!("pg-{}", node + 1).parse().expect("it is an id");
            return Err(Violation::TopologyBack { controller, from: *last, to: view.version });
        }
        *last = view.version;
        let known = self.views.entry(view.version).or_insert_with(|| view.clone());
        if known == view {
            Ok(())
        } else {
            Err(Violation::TopologyForked { version: view.version })
        }
    }

    /// Durability.
    pub(crate) fn nothing_is_lost(&self, id: &InstanceId, wal: &[Entry]) -> Result<(), Violation> {
        let there = Set::of(wal);
        let acknowledged = self.writes.iter().filter(|(_, write)| write.acknowledged.is_some());
        let writes: Vec<Entry> =
            acknowledged.map(|(entry, _)| *entry).filter(|entry| !there.contains(*entry)).collect();
        if writes.is_empty() {
            Ok(())
        } else {
            Err(Violation::Lost { primary: id.clone(), writes })
        }
    }

    /// A set that only grows is linearizable if its reads can be put in one order, each showing
    /// what the one before it showed, in which (a) a read shows everything that was acknowledged
    /// before it began, or before anything that it shows began, (b) nothing shows what had not begun
    /// when the read ended, and (c) a read that ended before another began comes first.
    pub(crate) fn is_linearizable(&mut self) -> Result<(), Violation> {
        let mut reads = std::mem::take(&mut self.reads);
        // By size, so that each must contain the one before it; a set that is smaller than one that
        // was seen earlier lacks something that was seen.
        reads.sort_by_key(|read| (read.ended, read.begun));
        let mut acknowledged: Vec<(Moment, Entry)> = self
            .writes
            .iter()
            .filter_map(|(entry, write)| Some((write.acknowledged?, *entry)))
            .collect();
        acknowledged.sort_unstable();
        let sets: Vec<Set> = reads.iter().map(|read| Set::of(&read.wal[..read.visible])).collect();
        for (read, set) in reads.iter().zip(&sets) {
            self.shows_what_it_must(read, set, &acknowledged)?;
        }
        in_one_order(&reads, &sets)
    }

    fn shows_what_it_must(
        &self,
        read: &Read,
        set: &Set,
        acknowledged: &[(Moment, Entry)],
    ) -> Result<(), Violation> {
        let mut newest = read.begun;
        for entry in &set.0 {
            match self.writes.get(entry) {
                Some(write) if write.begun < read.ended && !write.impossible => {
                    newest = newest.max(write.begun);
                }
                Some(_) | None => {
                    return Err(Violation::Invented { at: read.ended, entry: *entry });
                }
            }
        }
        for (at, entry) in acknowledged {
            if *at >= newest {
                break;
            }
            if !set.contains(*entry) {
                return Err(Violation::Stale { at: read.ended, missing: *entry });
            }
        }
        Ok(())
    }
}

/// What a read shows, in ascending order: these are compared by the hundred, for each run.
struct Set(Vec<Entry>);

impl Set {
    fn of(wal: &[Entry]) -> Self {
        let mut entries: Vec<Entry> = wal.iter().copied().filter(|entry| *entry < OWN).collect();
        entries.sort_unstable();
        entries.dedup();
        Self(entries)
    }

    fn contains(&self, entry: Entry) -> bool {
        self.0.binary_search(&entry).is_ok()
    }

    /// The first that `other` does not show.
    fn missing_in(&self, other: &Self) -> Option<Entry> {
        let mut theirs = other.0.iter();
        let is_missing = |entry: &&Entry| !theirs.by_ref().any(|their| their == *entry);
        // What is not there has used up `theirs`: nothing after it is asked for.
        self.0.iter().find(is_missing).copied()
    }
}

/// Each read shows what the smaller ones show, and no smaller one began after a larger one ended.
fn in_one_order(reads: &[Read], sets: &[Set]) -> Result<(), Violation> {
    let mut order: Vec<usize> = (0..reads.len()).collect();
    order.sort_by_key(|index| (sets[*index].0.len(), reads[*index].ended));
    for pair in order.windows(2) {
        let (smaller, larger) = (pair[0], pair[1]);
        if let Some(missing) = sets[smaller].missing_in(&sets[larger]) {
            return Err(Violation::Vanished { at: reads[larger].ended, missing });
        }
    }
    // The latest beginning so far of a smaller set, against the end of a larger one.
    let mut earliest_end = Moment(u64::MAX);
    for index in order.iter().rev() {
        let (read, set) = (&reads[*index], &sets[*index]);
        if earliest_end < read.begun {
            let seen = order.iter().map(|i| (&reads[*i], &sets[*i]));
            let missing = seen
                .filter(|(earlier, _)| earlier.ended < read.begun)
                .find_map(|(_, other)| other.missing_in(set));
            if let Some(missing) = missing {
                return Err(Violation::Vanished { at: read.ended, missing });
            }
        }
        earliest_end = earliest_end.min(read.ended);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes 1 to 5 begin at 10 to 50; the first three are acknowledged 5 later, the others never.
    fn checker() -> Checker {
        let mut checker = Checker::default();
        for entry in 1..=5_u32 {
            checker.begun(entry, Moment(u64::from(entry) * 10));
            if entry < 4 {
                checker.acknowledged_at(entry, Moment(u64::from(entry) * 10 + 5));
            }
        }
        checker
    }

    /// When each begins and ends, and what it shows.
    type Reads<'a> = &'a [(u64, u64, &'a [Entry])];

    fn judged(reads: Reads<'_>) -> Result<(), Violation> {
        let mut checker = checker();
        for (begun, ended, set) in reads {
            checker.read(Moment(*begun), Moment(*ended), Rc::new(set.to_vec()), set.len());
        }
        checker.is_linearizable()
    }

    #[test]
    fn what_is_linearizable_is_acquitted() {
        judged(&[(11, 14, &[]), (12, 13, &[1]), (36, 50, &[1, 2, 3]), (41, 60, &[1, 2, 3, 4])])
            .unwrap();
        judged(&[(31, 50, &[1, 2, 3, OWN]), (31, 34, &[1, 2])]).unwrap();
    }

    #[test]
    fn what_is_not_is_convicted() {
        let at = Moment(60);
        #[rustfmt::skip]
        let cases: [(&str, Reads<'_>, Violation); 6] = [
            ("not fresh",          &[(36, 60, &[1, 2])],                   Violation::Stale { at, missing: 3 }),
            ("a gap",              &[(11, 60, &[2])],                      Violation::Stale { at, missing: 1 }),
            ("from the future",    &[(36, 38, &[1, 2, 3, 4])],             Violation::Invented { at: Moment(38), entry: 4 }),
            ("gone again",         &[(41, 50, &[1, 2, 3, 4]), (51, 60, &[1, 2, 3])], Violation::Vanished { at, missing: 4 }),
            ("never written",      &[(36, 60, &[1, 2, 3, 9])],             Violation::Invented { at, entry: 9 }),
            ("two orders",         &[(36, 60, &[1, 2, 3, 4]), (36, 60, &[1, 2, 3, 5])], Violation::Vanished { at, missing: 4 }),
        ];
        for (what, reads, violation) in cases {
            assert_eq!(judged(reads), Err(violation), "{what}");
        }
    }

    #[test]
    fn a_write_that_a_client_was_told_had_not_happened_must_not_show() {
        let mut checker = checker();
        checker.never_happened(4);
        checker.read(Moment(50), Moment(60), Rc::new(vec![1, 2, 3, 4]), 4);
        let invented = Violation::Invented { at: Moment(60), entry: 4 };
        assert_eq!(checker.is_linearizable(), Err(invented));
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let id: InstanceId = "pg-1".parse().unwrap();
        checker().nothing_is_lost(&id, &[1, 2, OWN, 3]).unwrap();
        let lost = checker().nothing_is_lost(&id, &[1, OWN, 3, 4]);
        assert_eq!(lost, Err(Violation::Lost { primary: id, writes: vec![2] }));
    }
}
