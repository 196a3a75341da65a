//! Long-poll: `?wait=<generation>.<revision>` asks for what is newer than that.
//!
//! What is newer already is answered at once. Otherwise the answer waits, for `timeout` at most
//! (1 to 60 s, default 30 s), and then is 304 without a body: ask again with the same version.
//! Every document has its version in the header `ETag`, and as `generation` and `revision`.
//! The versions of all controllers of a cluster are one order, so it may be asked of any of them.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use dugong_topology::{Generation, Revision, Version, units};
use serde::Deserialize;

use super::{Published, Topologies};

/// Where the query says nothing.
const TIMEOUT: Duration = Duration::from_secs(30);

const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The query, unchecked.
#[derive(Debug, Deserialize)]
pub(super) struct RawWait {
    wait: Option<String>,
    timeout: Option<String>,
}

/// How long a client waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Whatever is there will do.
    No,
    For {
        newer_than: Version,
        timeout: Duration,
    },
}

impl RawWait {
    pub(super) fn is_waiting(&self) -> bool {
        self.wait.is_some()
    }
}

impl TryFrom<RawWait> for Wait {
    type Error = String;

    fn try_from(raw: RawWait) -> Result<Self, String> {
        let timeout = raw.timeout.as_deref().map(parse_timeout).transpose()?.unwrap_or(TIMEOUT);
        let Some(text) = raw.wait else { return Ok(Self::No) };
        Ok(Self::For { newer_than: parse_version(&text)?, timeout })
    }
}

fn parse_version(text: &str) -> Result<Version, String> {
    let parts = text.split_once('.');
    let numbers = parts.and_then(|(g, r)| Some((g.parse().ok()?, r.parse().ok()?)));
    numbers
        .map(|(generation, revision)| Version {
            generation: Generation(generation),
            revision: Revision(revision),
        })
        .ok_or_else(|| {
            format!("wait={text:?} is no version: write generation.revision, as in wait=3.42")
        })
}

/// A number of seconds, or a duration with its unit.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => units::parse_duration(text)?,
    };
    let range = Duration::from_secs(1)..=TIMEOUT_MAX;
    let refused = || format!("timeout={text} is out of range: 1 to 60 s");
    range.contains(&timeout).then_some(timeout).ok_or_else(refused)
}

/// What became of waiting.
pub(super) enum Waited {
    Ready(Arc<Published>),
    /// Nothing newer came in time.
    Unchanged,
    /// The store was not read yet.
    Unread,
}

impl Wait {
    /// Waits for a topology whose part of interest, at `version`, is new enough.
    pub(super) async fn on(
        self,
        topologies: &Topologies,
        version: impl Fn(&Published) -> Version,
    ) -> Waited {
        let newest = || topologies.borrow().clone();
        match self {
            Self::No => newest().map_or(Waited::Unread, Waited::Ready),
            Self::For { newer_than, timeout } => {
                let mut waiting = topologies.clone();
                let is_newer = |published: &Option<Arc<Published>>| {
                    published.as_ref().is_some_and(|published| version(published) > newer_than)
                };
                let changed = tokio::time::timeout(timeout, waiting.wait_for(is_newer)).await;
                // In time, or not at all: the publisher ends with the controller.
                let ready = changed.ok().and_then(Result::ok).and_then(|found| found.clone());
                match ready {
                    Some(published) => Waited::Ready(published),
                    None if newest().is_some() => Waited::Unchanged,
                    None => Waited::Unread,
                }
            }
        }
    }
}

/// The header that says which version a document has.
pub(super) fn etag(version: Version) -> [(HeaderName, HeaderValue); 1] {
    let text = format!("\"{}.{}\"", version.generation, version.revision);
    let value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("\"\""));
    [(header::ETAG, value)]
}

/// The answer when nothing newer came.
pub(super) const UNCHANGED: StatusCode = StatusCode::NOT_MODIFIED;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_says_for_what_and_how_long() {
        let of = |generation, revision, secs| {
            Ok(Wait::For {
                newer_than: Version {
                    generation: Generation(generation),
                    revision: Revision(revision),
                },
                timeout: Duration::from_secs(secs),
            })
        };
        #[rustfmt::skip]
        let cases = [
            (None,           None,         Ok(Wait::No)),
            (Some("3.42"),   None,         of(3, 42, 30)),
            (Some("0.0"),    Some("1"),    of(0, 0, 1)),
            (Some("3.42"),   Some("1m"),   of(3, 42, 60)),
            (Some("3"),      None,         Err("is no version")),
            (Some("3.x"),    None,         Err("is no version")),
            (Some("-1.2"),   None,         Err("is no version")),
            (Some("3.42"),   Some("61"),   Err("out of range")),
            (Some("3.42"),   Some("0"),    Err("out of range")),
            (Some("3.42"),   Some("soon"), Err("is no duration")),
            (None,           Some("0"),    Err("out of range")),
        ];
        for (wait, timeout, expected) in cases {
            let raw =
                RawWait { wait: wait.map(str::to_owned), timeout: timeout.map(str::to_owned) };
            match (Wait::try_from(raw), expected) {
                (Ok(wait), Ok(expected)) => assert_eq!(wait, expected),
                (Err(why), Err(words)) => assert!(why.contains(words), "{why}"),
                (got, _) => panic!("{wait:?} {timeout:?}: {got:?}"),
            }
        }
    }
}
