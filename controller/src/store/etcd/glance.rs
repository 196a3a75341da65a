//! Reads that any member of etcd may answer, and that no silent one holds up.
//!
//! A member that has gone is noticed after the request timeout only. Whoever counts the time of
//! others cannot wait for that: what the lost member was the first to know would be seen so much
//! later. So another one is asked as well as soon as an answer is late.
//!
//! **Invariant:** an answer may be old, never wrong: it is what one member has, without asking the
//! others.

use std::time::Duration;

use etcd_client::{GetOptions, GetResponse};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use super::Access;
use super::members::Members;
use super::trouble::Trouble;

/// An answer that takes longer than this is late.
const LATE: Duration = Duration::from_millis(100);

/// All members, each with a connection of its own.
pub(super) struct Glance {
    /// Never empty.
    members: Vec<Members>,
    /// Who was the first to answer, last time.
    first: usize,
}

impl Glance {
    pub(super) fn new(access: Access, first: usize) -> Self {
        let Access { endpoints, options, request_timeout, .. } = access;
        // A member without a leader still says what it has.
        let options = options.with_require_leader(false);
        let alone = |url| Members::new(vec![url], options.clone(), request_timeout, 0);
        let members: Vec<_> = endpoints.into_iter().map(alone).collect();
        let first = first % members.len().max(1);
        Self { members, first }
    }

    /// What is below `prefix`.
    pub(super) async fn below(&mut self, prefix: &str) -> Result<GetResponse, Trouble> {
        let count = self.members.len();
        let mut others = (1..count).map(|step| (self.first + step) % count);
        let ask = async |place: usize| {
            let what = GetOptions::new().with_prefix().with_serializable();
            (place, self.members[place].get(prefix.to_owned(), Some(what)).await)
        };
        let mut asked = FuturesUnordered::from_iter([ask(self.first)]);
        loop {
            let answer = timeout(LATE, asked.next()).await;
            let trouble = match answer {
                Ok(Some((place, Ok(answer)))) => {
                    drop(asked);
                    self.first = place;
                    return Ok(answer);
                }
                Ok(Some((_, Err(trouble)))) => Some(trouble),
                Ok(None) | Err(_) => None,
            };
            match (others.next(), trouble) {
                (Some(place), _) => asked.push(ask(place)),
                (None, Some(trouble)) if asked.is_empty() => return Err(trouble),
                (None, _) => (),
            }
        }
    }
}
