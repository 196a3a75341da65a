//! `[timings]`: how fast the cluster reacts, and how the spans depend on each other.

use std::time::Duration;

use dugong_topology::units;
use serde::Deserialize;

use super::error::ConfigProblem;

/// `[timings]`: spans of the local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// How long a commit that the sync confirmed lets the primary serve without the store.
    /// Default 2 s; longer than two heartbeats, shorter than a session.
    pub link_ttl: Duration,
    /// How often the primary commits a heartbeat through its sync. At least 50 ms. Default 500 ms.
    pub heartbeat_interval: Duration,
    /// How long a sync may fail to follow before a fit async takes its place. Default 2 s; longer
    /// than two heartbeats.
    pub sync_timeout: Duration,
    /// How long a primary whose server died leaves its office to its sync before it tries again.
    /// Default 5 s; longer than a session.
    pub restart_after: Duration,
    /// How long a standby may fail to stream from a running upstream before it is copied anew.
    /// Default 30 s; longer than a session.
    pub stuck_after: Duration,
    /// How long an async may be away before it is dropped from the record. Default 1 h; longer
    /// than a session.
    pub forget_after: Duration,
    /// How long a disk may take to write a small file before that is a strike against it. Default
    /// 10 s. None: nobody looks; `storage_deadline = "0s"`.
    pub storage_deadline: Option<Duration>,
}

/// What the section may say, with its defaults.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTimings {
    #[serde(with = "units::duration")]
    link_ttl: Duration,
    #[serde(with = "units::duration")]
    heartbeat_interval: Duration,
    #[serde(with = "units::duration")]
    sync_timeout: Duration,
    #[serde(with = "units::duration")]
    restart_after: Duration,
    #[serde(with = "units::duration")]
    stuck_after: Duration,
    #[serde(with = "units::duration")]
    forget_after: Duration,
    #[serde(with = "units::duration")]
    storage_deadline: Duration,
}

impl Default for RawTimings {
    fn default() -> Self {
        Self {
            link_ttl: Duration::from_secs(2),
            heartbeat_interval: Duration::from_millis(500),
            sync_timeout: Duration::from_secs(2),
            restart_after: Duration::from_secs(5),
            stuck_after: Duration::from_secs(30),
            forget_after: Duration::from_secs(3600),
            storage_deadline: Duration::from_secs(10),
        }
    }
}

const HEARTBEAT: &str = "timings.heartbeat_interval";
const SESSION: &str = "store.session_ttl";

impl RawTimings {
    pub(super) fn checked(self, session_ttl: Duration) -> Result<Timings, ConfigProblem> {
        let Self {
            link_ttl,
            heartbeat_interval,
            sync_timeout,
            restart_after,
            stuck_after,
            forget_after,
            storage_deadline,
        } = self;
        let shortest = Duration::from_millis(50);
        let longest = Duration::from_secs(60);
        if !(shortest..=longest).contains(&heartbeat_interval) {
            let (key, value) = (HEARTBEAT, heartbeat_interval);
            return Err(ConfigProblem::OutOfRange { key, value, shortest, longest });
        }
        let beats = heartbeat_interval * 2;
        #[rustfmt::skip]
        let rows = [
            // what must be shorter               than this
            (HEARTBEAT, heartbeat_interval, beats, "timings.link_ttl", link_ttl,
             "one late heartbeat must not end the link's lease, so it holds more than two"),
            (HEARTBEAT, heartbeat_interval, beats, "timings.sync_timeout", sync_timeout,
             "one late heartbeat must not cost the sync its place, so it holds more than two"),
            ("timings.link_ttl", link_ttl, link_ttl, SESSION, session_ttl,
             "a takeover waits for both leases, and the session's is the one to wait for"),
            (SESSION, session_ttl, session_ttl, "timings.restart_after", restart_after,
             "a sync must have had the time to take over"),
            (SESSION, session_ttl, session_ttl, "timings.stuck_after", stuck_after,
             "a lost upstream must have had the time to be noticed"),
            (SESSION, session_ttl, session_ttl, "timings.forget_after", forget_after,
             "an instance is away only once its session has ended"),
        ];
        for (key, value, least, other, limit, reason) in rows {
            if least >= limit {
                return Err(ConfigProblem::TooLong { key, value, other, limit, reason });
            }
        }
        Ok(Timings {
            link_ttl,
            heartbeat_interval,
            sync_timeout,
            restart_after,
            stuck_after,
            forget_after,
            storage_deadline: checked_storage_deadline(storage_deadline)?,
        })
    }
}

fn checked_storage_deadline(value: Duration) -> Result<Option<Duration>, ConfigProblem> {
    // A checkpoint makes a disk slow for moments; whoever waits for longer than that waits in vain.
    let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(600));
    if value.is_zero() {
        return Ok(None);
    }
    if !(shortest..=longest).contains(&value) {
        let key = "timings.storage_deadline";
        return Err(ConfigProblem::OutOfRange { key, value, shortest, longest });
    }
    Ok(Some(value))
}
