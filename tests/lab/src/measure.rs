//! How long a single fault is felt: the same one again and again, on a cluster that is whole.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use tokio::time::sleep;

use crate::fault::{Fault, Victim};
use crate::plan::StorePlace;
use crate::say::Voice;
use crate::store_leader;
use crate::trial::Trial;

/// Writing before each fault, so that a pause has two ends.
const BEFORE: Duration = Duration::from_secs(2);

/// The longest from a heal to an acknowledged write.
const WRITABLE_WITHIN: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The host of the primary is gone
    MachineLoss,
    /// No member of the store lives
    StoreDown,
    /// The primary cannot reach the store
    CutFromStore,
    /// The primary can reach neither the store nor its sync
    CutFromStoreAndSync,
}

impl What {
    /// Where the store has to be for it.
    pub fn place(self) -> StorePlace {
        match self {
            Self::MachineLoss => StorePlace::Beside,
            Self::StoreDown | Self::CutFromStore | Self::CutFromStoreAndSync => StorePlace::Apart,
        }
    }

    /// How long the fault lasts where nobody says otherwise.
    pub fn lasts(self) -> Duration {
        match self {
            Self::MachineLoss | Self::CutFromStoreAndSync => Duration::from_secs(15),
            Self::StoreDown | Self::CutFromStore => Duration::from_secs(60),
        }
    }

    fn fault(self) -> Fault {
        let victim = Victim::Primary;
        match self {
            Self::MachineLoss => Fault::Drop { victim },
            Self::StoreDown => Fault::StoreDown,
            Self::CutFromStore => Fault::CutFromStore { victim },
            Self::CutFromStoreAndSync => Fault::CutFromStoreAnd { victim, other: Victim::Sync },
        }
    }
}

/// What one fault did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Felt {
    /// The longest time between two acknowledged writes.
    pause: Duration,
    /// Writes that were not acknowledged.
    failed: u64,
    failovers: usize,
    store: StoreLeader,
}

/// Whether the primary's host was the store's leader's, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreLeader {
    Beside,
    Elsewhere,
}

/// Measures `times` times, and says each figure.
///
/// # Errors
///
/// The laboratory failed, or the cluster did not recover.
pub async fn run(
    trial: &mut Trial,
    what: What,
    times: usize,
    lasts: Duration,
    voice: Voice,
) -> anyhow::Result<()> {
    trial.write(4)?;
    let mut all = Vec::new();
    for number in 1..=times {
        trial.whole().await?;
        trial.writable(WRITABLE_WITHIN).await?;
        sleep(BEFORE).await;
        let felt = once(trial, what, lasts).await?;
        voice.say(format!(
            "{number}: longest pause {:.3} s, {} writes failed, {} failovers{}",
            felt.pause.as_secs_f64(),
            felt.failed,
            felt.failovers,
            match felt.store {
                StoreLeader::Beside => "; the store's leader was on the primary's host",
                StoreLeader::Elsewhere => "",
            }
        ));
        all.push(felt);
    }
    trial.end().await?;
    let mut pauses: Vec<Duration> = all.iter().map(|felt| felt.pause).collect();
    pauses.sort_unstable();
    let seconds = |pause: Option<&Duration>| pause.copied().unwrap_or_default().as_secs_f64();
    voice.say(format!(
        "{what:?}, {times} times: pause min {:.3} s, median {:.3} s, max {:.3} s; {} writes failed; \
         {} failovers",
        seconds(pauses.first()),
        seconds(pauses.get(pauses.len() / 2)),
        seconds(pauses.last()),
        all.iter().map(|felt| felt.failed).sum::<u64>(),
        all.iter().map(|felt| felt.failovers).sum::<usize>()
    ));
    Ok(())
}

async fn once(trial: &Trial, what: What, lasts: Duration) -> anyhow::Result<Felt> {
    let (_, unknown) = trial.ledger.counts();
    let failovers = trial.board.read().failovers();
    let primary = trial.offices().map(|now| now.primary);
    let store = match store_leader::leader(&trial.cluster) {
        leader if leader.is_some() && leader == primary => StoreLeader::Beside,
        _ => StoreLeader::Elsewhere,
    };
    let from = Instant::now();
    let harms = trial.strike(&what.fault())?;
    sleep(lasts).await;
    trial.heal(&harms)?;
    trial.writable(WRITABLE_WITHIN).await?;
    trial.whole().await?;
    let to = Instant::now();
    let entries = trial.ledger.entries();
    Ok(Felt {
        pause: entries.longest_pause_between(from, to),
        failed: entries.unknown - unknown,
        failovers: trial.board.read().failovers() - failovers,
        store,
    })
}
