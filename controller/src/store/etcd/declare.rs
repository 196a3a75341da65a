//! A declaration: one transaction that compares the record, the guard, the session and the request.
//!
//! A guard may hold in two ways, and etcd knows no "or": the second way is tried by a transaction
//! inside the first one's "else".

use dugong_machine::{Declaration, Guard, Outcome, RequestNumber, ServerState};
use dugong_topology::Revision;
use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::super::codec;
use super::content::{Kept, Value, as_revision};
use super::keys::{Keys, OfInstance, counted};
use super::members::Members;
use super::requests;
use super::session::state;
use super::trouble::Trouble;
use crate::clock::unix_ms;

/// Why a declaration was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Raced,
    Guarded,
    /// A later session of the same instance has begun.
    Replaced,
}

/// Writes it, unless something is not as it has to be.
pub(super) async fn declare(
    members: &Members,
    keys: &Keys,
    session: Option<Compare>,
    declaration: &Declaration,
) -> Result<Result<Revision, Refusal>, Trouble> {
    let record = members.get(keys.record(), None).await?;
    let found = record.kvs().first();
    if found.map(|found| as_revision(found.mod_revision())) != declaration.at {
        return Ok(Err(Refusal::Raced));
    }
    let before: Option<Kept> = match found {
        Some(found) => Some(codec::decode(&Value::of(found)?.text)?),
        None => None,
    };
    let mut conditions = vec![is_unchanged(keys, declaration.at)];
    conditions.extend(session.clone());
    let mut puts = puts(keys, declaration, before)?;
    if let Some(number) = declaration.fulfils {
        let Some(open) = requests::open(members, keys, number).await? else {
            return Ok(Err(Refusal::Guarded));
        };
        conditions.push(requests::is_unchanged(keys, open));
        puts.extend(requests::ended(keys, number, &Outcome::Done)?);
    }
    let (either, or) = guards(keys, &declaration.guard);
    let with = |guard: Option<Compare>| {
        Txn::new().when(conditions.iter().cloned().chain(guard).collect::<Vec<_>>())
    };
    let why = why_not(keys, declaration.at, session);
    let txn = match or {
        Some(or) => {
            let second = with(Some(or)).and_then(puts.clone()).or_else(why);
            with(either).and_then(puts).or_else([TxnOp::txn(second)])
        }
        None => with(either).and_then(puts).or_else(why),
    };
    Ok(outcome(&members.txn(txn).await?))
}

fn is_unchanged(keys: &Keys, at: Option<Revision>) -> Compare {
    // etcd's revisions fit: this one came from there. 0 stands for a key that is not there.
    let seen = at.map_or(0, |at| i64::try_from(at.0).unwrap_or(i64::MAX));
    Compare::mod_revision(keys.record(), CompareOp::Equal, seen)
}

fn puts(
    keys: &Keys,
    declaration: &Declaration,
    before: Option<Kept>,
) -> Result<Vec<TxnOp>, Trouble> {
    let at_unix_ms = unix_ms();
    let same = before.filter(|before| before.record.generation == declaration.next.generation);
    let since_unix_ms = same.map_or(at_unix_ms, |before| before.since_unix_ms);
    let content = Kept { since_unix_ms, at_unix_ms, record: declaration.next.clone() };
    let content = codec::encode(&content)?;
    let replaced = declaration.at.map_or(0, |at| at.0);
    Ok(vec![
        TxnOp::put(keys.history_after(replaced), content.clone(), None),
        TxnOp::put(keys.record(), content, None),
    ])
}

/// The two ways in which a guard may hold; one of them is enough.
fn guards(keys: &Keys, guard: &Guard) -> (Option<Compare>, Option<Compare>) {
    match guard {
        Guard::None => (None, None),
        Guard::AbsentOrStopped(id) => {
            let session = keys.of(id, OfInstance::Session);
            let absent = Compare::create_revision(session.clone(), CompareOp::Equal, 0);
            let stopped = Compare::value(session, CompareOp::Equal, state(ServerState::Stopped));
            (Some(absent), Some(stopped))
        }
        Guard::HandedOver { by, request: RequestNumber(number) } => {
            let handover = keys.of(by, OfInstance::Handover);
            (Some(Compare::value(handover, CompareOp::Equal, counted(*number))), None)
        }
    }
}

/// Succeeds where it was the guard that did not hold; else shows the record.
fn why_not(keys: &Keys, at: Option<Revision>, session: Option<Compare>) -> Vec<TxnOp> {
    let unchanged = Txn::new().when([is_unchanged(keys, at)]);
    let newest = Txn::new().when(session.into_iter().collect::<Vec<_>>());
    vec![TxnOp::txn(unchanged), TxnOp::txn(newest)]
}

fn outcome(answer: &TxnResponse) -> Result<Revision, Refusal> {
    if answer.succeeded() {
        let revision = answer.header().map(etcd_client::ResponseHeader::revision);
        return Ok(as_revision(revision.unwrap_or_default()));
    }
    let parts: Vec<TxnResponse> = answer
        .op_responses()
        .into_iter()
        .filter_map(|part| match part {
            TxnOpResponse::Txn(part) => Some(part),
            TxnOpResponse::Put(_) | TxnOpResponse::Get(_) | TxnOpResponse::Delete(_) => None,
        })
        .collect();
    match parts.as_slice() {
        [second] => {
            // The header of a transaction inside another one has no revision of its own.
            let inner = outcome(second);
            let revision = answer.header().map(etcd_client::ResponseHeader::revision);
            inner.map(|_| as_revision(revision.unwrap_or_default()))
        }
        [unchanged, _] if !unchanged.succeeded() => Err(Refusal::Raced),
        [_, newest] if !newest.succeeded() => Err(Refusal::Replaced),
        _ => Err(Refusal::Guarded),
    }
}
