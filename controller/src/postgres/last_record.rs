//! What the WAL of a data directory ends with.
//!
//! A server that is stopped in order writes, last of all, a checkpoint that says so; who follows it
//! and has replayed up to there has everything. A server that was killed has no such word, nor has a
//! broken connection. (A server that comes back after a crash writes the same word before it takes
//! anything; so what is behind its address is asked, too.)
//!
//! Source: PostgreSQL, `CreateCheckPoint`, `XLogSendPhysical` (it waits for its standbys at the end);
//! manual, `pg_waldump`.

use std::path::Path;

use dugong_topology::{Lsn, TimelineId};
use rustix::process::Signal;
use tokio::process::Command;

use super::helper::{HelperError, run_helper};
use super::making::Workshop;

/// Of a page of WAL, unless somebody has compiled it otherwise: then the record is not found.
const PAGE: u64 = 8192;

/// What `pg_waldump` says where no record begins.
const NONE: &str = "could not find a valid record";

impl Workshop<'_> {
    /// Whether the record that ends at `end` is that of an orderly stop.
    ///
    /// # Errors
    ///
    /// It cannot be read, in words.
    pub(super) async fn ends_with_a_stop(
        self,
        data: &Path,
        timeline: TimelineId,
        end: Lsn,
    ) -> Result<bool, String> {
        let page = end.0.saturating_sub(1) / PAGE * PAGE;
        // It is shorter than a page, and may have begun on the one before; which may be no part of
        // the WAL, if that went on with another file.
        for begin in [page, page.saturating_sub(PAGE)] {
            let mut dump = Command::new(self.settings.bin.join("pg_waldump"));
            dump.arg(format!("--path={}", data.join("pg_wal").display()))
                .arg(format!("--timeline={}", timeline.0))
                .arg(format!("--start={}", Lsn(begin)))
                .arg(format!("--end={end}"))
                .env("LC_ALL", "C");
            match run_helper(self.spawner, dump, Signal::KILL).await {
                Ok(output) => return Ok(is_a_stop(&output.stdout)),
                Err(HelperError::Failed { said, .. }) if said.contains(NONE) => (),
                Err(error @ HelperError::Start { .. }) => {
                    return Err(format!("{error}; install all of PostgreSQL's programs"));
                }
                Err(error @ HelperError::Failed { .. }) => return Err(error.to_string()),
            }
        }
        Ok(false)
    }
}

/// Whether the last of these records is one.
fn is_a_stop(dumped: &str) -> bool {
    dumped.lines().rfind(|line| line.starts_with("rmgr: ")).is_some_and(|line| {
        line.starts_with("rmgr: XLOG ") && line.contains("desc: CHECKPOINT_SHUTDOWN ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_record_tells_that_a_server_was_stopped() {
        let stop = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: \
                    0/03635158, prev 0/03635130, desc: CHECKPOINT_SHUTDOWN redo 0/3635158; tli 1";
        let online = stop.replace("SHUTDOWN", "ONLINE");
        let message = "rmgr: LogicalMessage len (rec/tot):     90/    90, tx:          0, lsn: \
                       0/03635158, prev 0/03635130, desc: CHECKPOINT_SHUTDOWN redo";
        #[rustfmt::skip]
        let cases = [
            (stop.to_owned(),                true),
            (format!("{online}\n{stop}\n"),  true),
            (format!("{stop}\n{online}\n"),  false),
            (format!("{stop}\n{message}\n"), false),
            (String::new(),                  false),
        ];
        for (dumped, expected) in cases {
            assert_eq!(is_a_stop(&dumped), expected, "{dumped}");
        }
    }
}
