//! The run: the nemesis at work for a given time, then every promise held against what happened.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use dugong_controller::verify::Verdict;
use tokio::time::sleep_until;

use crate::direct;
use crate::fault::{Harm, KINDS};
use crate::nemesis::{Nemesis, Round};
use crate::register;
use crate::say::Voice;
use crate::trial::{Records, Trial};

/// Broken promises of one kind that are told in words.
const SHOWN: usize = 5;

/// How long, how hard, and how patient.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub seed: u64,
    pub time: Duration,
    /// Writers at the write address.
    pub writers: usize,
    /// The longest from the last heal to an acknowledged write.
    pub recover_within: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub seed: u64,
    pub time: Duration,
    /// By [`KINDS`].
    pub faults: BTreeMap<&'static str, usize>,
    pub failovers: usize,
    pub acknowledged: usize,
    pub directly: usize,
    pub unknown: u64,
    pub lost: usize,
    /// Reads of registers at the write address, and how many broke linearizability.
    pub reads: usize,
    pub stale: usize,
    pub longest_pause: Duration,
    pub longest_recovery: Duration,
    /// Every promise that was broken, in words.
    pub broken: Vec<String>,
}

impl Summary {
    /// Whether every promise was held.
    pub fn held(&self) -> bool {
        self.broken.is_empty()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: usize = self.faults.values().sum();
        let of = |kind: &&'static str| Some(format!("{kind} {}", self.faults.get(kind)?));
        let kinds: Vec<String> = KINDS.iter().filter_map(of).collect();
        write!(
            f,
            "summary: seed {}, {:.0} s, {total} faults ({}), {} failovers, {} writes acknowledged \
             and {} directly, {} unknown, {} lost, {} reads, {} stale, longest pause {:.1} s, longest recovery {:.1} s: \
             {}",
            self.seed,
            self.time.as_secs_f64(),
            kinds.join(", "),
            self.failovers,
            self.acknowledged,
            self.directly,
            self.unknown,
            self.lost,
            self.reads,
            self.stale,
            self.longest_pause.as_secs_f64(),
            self.longest_recovery.as_secs_f64(),
            if self.held() { "held" } else { "BROKEN" }
        )
    }
}

/// Lets the nemesis work on a cluster that is whole.
///
/// # Errors
///
/// The laboratory failed; what the cluster does wrong is in the summary.
pub async fn run(trial: &mut Trial, options: Options, voice: Voice) -> anyhow::Result<Summary> {
    let began = Instant::now();
    trial.write(options.writers)?;
    trial.verify(options.seed)?;
    let mut summary = Summary { seed: options.seed, ..Summary::default() };
    summary.recovered(trial.writable(options.recover_within).await);
    let mut nemesis = Nemesis::new(options.seed, trial.cluster.plan());
    while began.elapsed() < options.time && summary.held() {
        let round = nemesis.draw();
        play(trial, &round, &mut summary, voice).await?;
        let recovery = trial.writable(options.recover_within).await;
        if let Ok(time) = &recovery {
            voice.say(format!("writable again after {:.2} s", time.as_secs_f64()));
        }
        summary.recovered(recovery);
    }
    summary.time = began.elapsed();
    judge(trial, &mut summary, voice).await?;
    Ok(summary)
}

/// One round, from its calm to its last heal.
async fn play(
    trial: &Trial,
    round: &Round,
    summary: &mut Summary,
    voice: Voice,
) -> anyhow::Result<()> {
    enum Turn {
        Strike(usize),
        Heal(usize),
    }
    let begin = Instant::now() + round.calm;
    let mut turns = Vec::new();
    for (index, strike) in round.strikes.iter().enumerate() {
        turns.push((begin + strike.after, Turn::Strike(index)));
        turns.push((begin + strike.after + strike.lasts, Turn::Heal(index)));
    }
    turns.sort_by_key(|(at, _)| *at);
    let mut done: BTreeMap<usize, Vec<Harm>> = BTreeMap::new();
    for (at, turn) in turns {
        sleep_until(at.into()).await;
        match turn {
            Turn::Strike(index) => {
                let strike = &round.strikes[index];
                let now = trial.offices();
                let name = |host| trial.cluster.network().name(host).to_owned();
                let offices = now.map_or_else(String::new, |now| {
                    format!(" (primary {}, sync {})", name(now.primary), name(now.sync))
                });
                let lasts = strike.lasts.as_secs_f64();
                voice.say(format!("{} for {lasts:.1} s{offices}", strike.fault));
                *summary.faults.entry(strike.fault.kind()).or_default() += 1;
                done.insert(index, trial.strike(&strike.fault)?);
            }
            Turn::Heal(index) => {
                trial.heal(&done.remove(&index).unwrap_or_default())?;
                voice.say(format!("healed: {}", round.strikes[index].fault));
            }
        }
    }
    Ok(())
}

/// Holds every promise against what was recorded.
async fn judge(trial: &mut Trial, summary: &mut Summary, voice: Voice) -> anyhow::Result<()> {
    match trial.whole().await {
        Ok(time) => voice.say(format!("whole again after {:.1} s", time.as_secs_f64())),
        Err(error) => summary.broken.push(format!("{error:#}")),
    }
    let Records { directly, histories, verdict } = trial.end().await?;
    let entries = trial.ledger.entries();
    summary.acknowledged = entries.acknowledged.len();
    summary.directly = directly.len();
    summary.unknown = entries.unknown;
    summary.longest_pause = entries.longest_pause();
    for (error, count) in &entries.errors {
        voice.say(format!("clients were told {count} times: {error}"));
    }
    match trial.rows().await {
        Ok(rows) => {
            let lost = entries.lost(&rows.written);
            let gone = |ack: &&direct::DirectAck| {
                !rows.directly.contains(&(ack.instance.clone(), ack.number))
            };
            let lost_directly: Vec<_> = directly.iter().filter(gone).collect();
            summary.lost = lost.len() + lost_directly.len();
            if summary.lost > 0 {
                summary.broken.push(format!(
                    "{} acknowledged rows are lost, first {:?} {:?}",
                    summary.lost,
                    lost.first(),
                    lost_directly.first()
                ));
            }
        }
        Err(error) => summary.broken.push(format!("the rows cannot be read: {error:#}")),
    }
    summary.broken.extend(direct::overlaps(&directly));
    for history in &histories {
        let stale = register::stale(history);
        summary.reads += history.reads.len();
        summary.stale += stale.len();
        summary.broken.extend(stale.into_iter().take(SHOWN));
    }
    summary.hear(verdict, voice);
    let seen = trial.board.read();
    summary.failovers = seen.failovers();
    let moved = seen.moved_back.iter().map(|what| format!("an observer moved back: {what}"));
    summary.broken.extend(moved);
    let two = seen.contradictions.iter().map(|what| format!("two primaries in generation {what}"));
    summary.broken.extend(two);
    voice.say(format!("{} topologies were seen", seen.documents));
    Ok(())
}

impl Summary {
    /// What the judge of `dugong verify` says.
    fn hear(&mut self, verdict: Option<anyhow::Result<Verdict>>, voice: Voice) {
        match verdict {
            Some(Ok(verdict)) => {
                for line in verdict.text().lines() {
                    voice.say(format!("verify: {line}"));
                }
                self.broken.extend(verdict.charges.into_iter().map(|c| format!("verify: {c}")));
            }
            Some(Err(error)) => self.broken.push(format!("verify could not finish: {error:#}")),
            None => {}
        }
    }

    fn recovered(&mut self, recovery: anyhow::Result<Duration>) {
        match recovery {
            Ok(time) => self.longest_recovery = self.longest_recovery.max(time),
            Err(error) => self.broken.push(format!("{error:#}")),
        }
    }
}
