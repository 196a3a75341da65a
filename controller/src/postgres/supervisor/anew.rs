//! Data made anew: the first of a cluster, or what is here brought to what the primary has, or a copy.

use std::sync::Arc;

use dugong_machine::{Old, Run, Upstream, Work};
use dugong_topology::{InstanceId, Way};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::super::given_up;
use super::super::making::{MakingError, Replaced, Stamp, Workshop};
use super::super::pace::Backoff;
use super::super::progress::Progress;
use super::super::rewind::Reused;
use super::Supervisor;
use crate::config::Origin;
use crate::metrics::count_making;

/// Between two words about how far it has come.
const TELL: Duration = Duration::from_secs(1);

/// A rewind that has failed so often is not tried again for the same making of data.
const ATTEMPTS: u32 = 3;

/// Rewinds that came to nothing.
#[derive(Debug, Default)]
pub(super) struct Rewinds {
    making: u32,
    failed: u32,
    /// Why the last one did.
    why: Option<String>,
}

impl Rewinds {
    fn may_try(&self, making: u32) -> bool {
        self.making != making || self.failed < ATTEMPTS
    }

    fn found_forked(&self, making: u32) -> bool {
        self.making == making && self.failed > 0
    }

    fn failed(&mut self, making: u32, error: &MakingError) {
        let before = if self.making == making { self.failed } else { 0 };
        let failed = if error.may_pass() { before + 1 } else { ATTEMPTS };
        *self = Self { making, failed, why: Some(error.to_string()) };
    }
}

/// Sources whose pages fail their checksum: all of their data was brought for nothing.
#[derive(Debug)]
pub(super) struct DamagedSources {
    last: Option<InstanceId>,
    pauses: Backoff,
}

impl Default for DamagedSources {
    fn default() -> Self {
        Self { last: None, pauses: Backoff::beginnings() }
    }
}

impl Supervisor {
    pub(super) async fn initialise(&mut self) -> Run {
        if self.layout.data_rewound.exists() {
            // R10: nothing is there that could tell whose it was.
            let path = self.layout.data_rewound.display();
            self.trouble = Some(format!(
                "{path} has served a cluster and is waiting for its primary: bring the store back \
                 that knows it, or remove that directory"
            ));
            return Run::Down;
        }
        if given_up::is_marked(&self.layout.data) {
            let path = self.layout.data.display();
            self.trouble = Some(format!(
                "{path} was given up to be copied anew, and there is no cluster to copy: bring the \
                 store back that knows it, or remove that directory"
            ));
            return Run::Down;
        }
        if let Some(trouble) = self.abandoned() {
            self.trouble = Some(trouble);
            return Run::Down;
        }
        if self.copies.must_wait() || self.beginnings.must_wait() {
            return Run::Down;
        }
        self.report(Run::Busy(Work::Initialising)).await;
        self.searched = None;
        let (settings, layout, spawner) = self.tools();
        let common = self.adopted.borrow().common();
        let workshop =
            Workshop { settings: &settings, layout: &layout, spawner: &spawner, common: &common };
        let (words, heard) = watch::channel(String::new());
        let desk = Arc::clone(&self.desk);
        let beginning = Box::pin(workshop.begin(&settings.origin, &words, &desk));
        let told = |itself: &mut Self| {
            let said = heard.borrow().clone();
            itself.trouble = (!said.is_empty()).then_some(said);
            Work::Initialising
        };
        let made = self.watch(beginning, told).await;
        let how = match settings.origin {
            Origin::Initdb => "initdb",
            Origin::Command(_) => "command",
            Origin::Adopt(_) => "adopt",
            Origin::Follow(_) => "follow",
        };
        if made.is_err() && settings.origin != Origin::Initdb {
            self.beginnings.failed();
        }
        self.made(made, how).await
    }

    /// What a beginning in another way has left, and nobody but a person may remove.
    fn abandoned(&self) -> Option<String> {
        let (adopted, followed) = (&self.layout.data_adopted, &self.layout.data_followed);
        let origin = &self.settings.origin;
        if adopted.exists() && !matches!(origin, Origin::Adopt(_)) {
            let path = adopted.display();
            return Some(format!(
                "{path} was about to be adopted: set [bootstrap] method = \"adopt\" again, or move \
                 that directory away"
            ));
        }
        (followed.exists() && !matches!(origin, Origin::Follow(_))).then(|| {
            format!(
                "{} follows a primary: set [bootstrap] method = \"follow\" again, or remove that \
                 directory",
                followed.display()
            )
        })
    }

    /// As a copy of `source`, or of what is here, where that may be given up.
    pub(super) async fn make_anew(&mut self, source: &Upstream, old: &Old, stamp: Stamp) -> Run {
        if self.copies.must_wait() || self.damaged_sources.pauses.must_wait() {
            return Run::Down;
        }
        self.searched = None;
        let primary = match old {
            // An operator wants a copy, whatever could be made of it.
            Old::GivenUp { .. } if given_up::is_marked(&self.layout.data) => None,
            // A rewind leaves the pages that it does not bring.
            Old::GivenUp { .. } if self.is_damaged() => None,
            Old::GivenUp { primary } if self.rewinds.may_try(stamp.making) => Some(primary),
            Old::GivenUp { .. } | Old::Untouched => None,
        };
        if let Some(primary) = primary
            && let Some(how) = self.rewind(primary, stamp).await
        {
            return self.made(Ok(()), how).await;
        }
        let (settings, layout, spawner) = self.tools();
        let common = self.adopted.borrow().common();
        let workshop =
            Workshop { settings: &settings, layout: &layout, spawner: &spawner, common: &common };
        let (progress, heard) = watch::channel(Progress::begun(Way::Copy));
        // What was to be rewound has forked.
        let replaced = if self.rewinds.found_forked(stamp.making) {
            Replaced::Forked
        } else {
            Replaced::Prefix
        };
        let chosen = given_up::chosen(&layout.data);
        let source = match old {
            // The next best has all of it, too.
            Old::GivenUp { primary } if self.damaged_sources.last.as_ref() == Some(&source.id) => {
                primary
            }
            Old::GivenUp { .. } | Old::Untouched => source,
        };
        let source = chosen.as_ref().unwrap_or(source);
        let copying = Box::pin(workshop.copy(source, stamp, replaced, &progress));
        let told = |_: &mut Self| Work::Copying(heard.borrow().told());
        let made = self.watch(copying, told).await;
        if made.is_err()
            && chosen.is_some()
            && let Err(error) = given_up::mark(&layout.data, None)
        {
            tracing::warn!(%error, "whom to copy cannot be changed");
        }
        if let Err(MakingError::DamagedSource { .. }) = &made {
            self.damaged_sources.last = Some(source.id.clone());
            self.damaged_sources.pauses.failed();
        } else {
            self.damaged_sources = DamagedSources::default();
        }
        self.made(made, "copy").await
    }

    /// How the data here was made of what it was; none where a copy is needed, or another attempt.
    async fn rewind(&mut self, primary: &Upstream, stamp: Stamp) -> Option<&'static str> {
        let limit = self.settings.repair.rewind_timeout?;
        if !self.layout.data.exists() && !self.layout.data_rewound.exists() {
            return None;
        }
        let (settings, layout, spawner) = self.tools();
        let common = self.adopted.borrow().common();
        let workshop =
            Workshop { settings: &settings, layout: &layout, spawner: &spawner, common: &common };
        let (progress, heard) = watch::channel(Progress::begun(Way::Rewind));
        let begun = Instant::now();
        let rewinding = Box::pin(workshop.rewind(primary, stamp, &progress));
        let rewinding = tokio::time::timeout(limit, rewinding);
        let late = |_| MakingError::NotRewound(format!("it took longer than {limit:?}"));
        let bounded = async { rewinding.await.unwrap_or_else(|elapsed| Err(late(elapsed))) };
        let told = |_: &mut Self| Work::Copying(heard.borrow().told());
        let made = self.watch(bounded, told).await;
        let took = begun.elapsed();
        match made {
            Ok(Reused::AsPrefix) => {
                tracing::info!(?took, "the data here is followed up on: its WAL is a prefix");
                Some("prefix")
            }
            Ok(Reused::Rewound) => {
                tracing::info!(?took, "the data here was rewound");
                Some("rewind")
            }
            Err(error) => {
                tracing::warn!(?took, "the data here is not rewound: {error}");
                self.rewinds.failed(stamp.making, &error);
                // Whatever worked on it.
                self.end_everything().await;
                None
            }
        }
    }

    /// Waits for the end of `work`, and tells how far it is meanwhile.
    async fn watch<T>(
        &mut self,
        work: impl Future<Output = T>,
        told: impl Fn(&mut Self) -> Work,
    ) -> T {
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(TELL);
        loop {
            tokio::select! {
                done = &mut work => return done,
                // Both are polled again: nothing is lost.
                _ = ticks.tick() => {
                    let work = told(self);
                    self.report(Run::Busy(work)).await;
                }
            }
        }
    }

    async fn made(&mut self, made: Result<(), MakingError>, how: &'static str) -> Run {
        self.shut_down_at = None;
        match made {
            Ok(()) => {
                count_making(how);
                self.trouble = None;
                self.copies.succeeded();
                self.restarts.succeeded();
            }
            Err(error) => {
                let not_rewound = self.rewinds.why.take();
                let before = not_rewound.map(|why| format!("; not rewound: {why}"));
                self.trouble = Some(format!("{error}{}", before.unwrap_or_default()));
                self.copies.failed();
            }
        }
        self.end_everything().await;
        self.examine().await;
        Run::Down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_rewound_is_not_tried_again_and_what_may_pass_is_a_few_times() {
        let hopeless = MakingError::NotRewound("no checksums".to_owned());
        let mut rewinds = Rewinds::default();
        assert!(rewinds.may_try(2));
        rewinds.failed(2, &hopeless);
        assert!(!rewinds.may_try(2));
        assert!(rewinds.may_try(3), "other data");

        let passing = || MakingError::NoCheckpoint { id: "pg-2".to_owned(), within: TELL };
        for _ in 1..ATTEMPTS {
            rewinds.failed(3, &passing());
            assert!(rewinds.may_try(3));
        }
        rewinds.failed(3, &passing());
        assert!(!rewinds.may_try(3));
    }
}
