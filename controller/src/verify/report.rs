//! A verdict in words, for people.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::time::Duration;

use serde::Serializer;

use super::outcome::Cause;
use super::verdict::{Ruling, Verdict};

/// Milliseconds with three decimals.
pub(super) fn as_milliseconds<S: Serializer>(
    time: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1_000_000.0).round() / 1000.0)
}

impl Verdict {
    /// What `dugong verify` prints: the measures first, the ruling last.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "began {}, lasted {}", self.began, self.lasted)?;
        writeln!(out, "\nwrites         {} acknowledged", self.writes.acknowledged)?;
        causes(out, "refused", &self.writes.refused)?;
        causes(out, "unknown", &self.writes.unknown)?;
        causes(out, "failed reads", &self.failed_reads)?;
        causes(out, "not connected", &self.failed_connects)?;
        let rows = &self.durability;
        writeln!(
            out,
            "rows           {} acknowledged, {} there in the end; of those with unknown outcome, {} \
             there and {} not",
            rows.acknowledged, rows.there, rows.unknown_there, rows.unknown_missing
        )?;
        writeln!(
            out,
            "fresh reads    {} at the write address, {} stale",
            self.freshness.reads, self.freshness.stale
        )?;
        let registers = &self.linearizability;
        writeln!(
            out,
            "registers      {} with {} operations: {} not linearizable, {} not decided",
            registers.registers, registers.operations, registers.violated, registers.undecided
        )?;
        self.write_staleness(out)?;
        let pauses = self.pauses.iter();
        let pauses = pauses.map(|pause| format!("{} ms at {}", pause.ms.as_millis(), pause.began));
        writeln!(out, "longest pauses {}", pauses.collect::<Vec<_>>().join(", "))?;
        self.write_proofs(out)?;
        self.write_ruling(out)
    }

    fn write_staleness(&self, out: &mut String) -> fmt::Result {
        let Some(stale) = &self.staleness else {
            return Ok(());
        };
        writeln!(out, "read address   {} reads, {} behind", stale.reads, stale.behind)?;
        causes(out, "failed", &self.failed_glances)?;
        let lags = [
            ("median", stale.median),
            ("90 %", stale.percentile_90),
            ("99 %", stale.percentile_99),
            ("maximum", stale.maximum),
        ];
        for (name, lag) in lags {
            let ms = lag.ms.as_secs_f64() * 1000.0;
            write!(out, "               {name:<8} {ms:>10.1} ms {:>6} writes behind", lag.writes)?;
            match stale.maximum_at.filter(|_| name == "maximum") {
                Some(at) => writeln!(out, ", at {at}")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }

    fn write_proofs(&self, out: &mut String) -> fmt::Result {
        for proof in &self.linearizability.proofs {
            writeln!(out, "\nno order explains this of register {}:", proof.register.0)?;
            for operation in &proof.operations {
                writeln!(out, "  {operation}")?;
            }
        }
        Ok(())
    }

    fn write_ruling(&self, out: &mut String) -> fmt::Result {
        match self.ruling() {
            Ruling::Acquitted => writeln!(out, "\nACQUITTED: every promise held"),
            Ruling::NotDecided => {
                list(out, "NOT DECIDED: no promise is known to be broken, but", &self.open)
            }
            Ruling::Convicted => {
                if !self.open.is_empty() {
                    list(out, "not decided:", &self.open)?;
                }
                list(out, "CONVICTED:", &self.charges)
            }
        }
    }
}

fn list(out: &mut String, heading: &str, sentences: &[String]) -> fmt::Result {
    writeln!(out, "\n{heading}")?;
    sentences.iter().try_for_each(|sentence| writeln!(out, "  {sentence}"))
}

fn causes(out: &mut String, name: &str, counts: &BTreeMap<Cause, u64>) -> fmt::Result {
    if counts.is_empty() {
        return Ok(());
    }
    let each = counts.iter().map(|(cause, count)| count_of(*count, cause));
    writeln!(out, "  {name:<14}{}", each.collect::<Vec<_>>().join(", "))
}

fn count_of(count: u64, what: &impl Display) -> String {
    format!("{count} × {what}")
}
