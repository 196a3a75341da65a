//! Operators' requests and their outcomes.
//!
//! **Invariant:** an outcome is written together with the end of its request, so once.

use dugong_machine::{Ask, Outcome, Request, RequestNumber};
use etcd_client::{Compare, CompareOp, DeleteOptions, Txn, TxnOp, TxnOpResponse};

use super::super::codec;
use super::super::requests::{Ended, OUTCOMES_SHOWN, superseded};
use super::content::Value;
use super::keys::Keys;
use super::members::Members;
use super::trouble::Trouble;
use crate::clock::unix_ms;

/// How often a write is tried while others write.
const TRIES: usize = 10;

/// Writes a request; none where another one is open, whose number is returned as the error.
pub(super) async fn ask(
    members: &Members,
    keys: &Keys,
    by: &str,
    what: &Ask,
) -> Result<Result<RequestNumber, RequestNumber>, Trouble> {
    for _ in 0..TRIES {
        let (asked, found) = read(members, keys).await?;
        let mut puts = Vec::new();
        if let Some(Found { request, .. }) = &found {
            match what {
                Ask::Switchover(_) => return Ok(Err(request.number)),
                Ask::Promotion(promotion) => {
                    let outcome = encoded(&superseded(by, promotion))?;
                    puts.push(TxnOp::put(keys.outcome(request.number.0), outcome, None));
                }
            }
        }
        let last: u64 = match &asked {
            None => 0,
            Some(value) => {
                value.text.parse().map_err(|_no_number| Trouble::Malformed { key: keys.asked() })?
            }
        };
        let number = RequestNumber(last + 1);
        let (by, what) = (by.to_owned(), what.clone());
        let request = Request { number, by, asked_unix_ms: unix_ms(), what };
        puts.push(TxnOp::put(keys.asked(), number.0.to_string(), None));
        puts.push(TxnOp::put(keys.request(), codec::encode(&request)?, None));
        puts.extend(forget(keys, number));
        let seen = asked.map_or(0, |value| value.revision);
        let conditions = [
            Compare::mod_revision(keys.asked(), CompareOp::Equal, seen),
            is_unchanged(keys, found.map_or(0, |found| found.revision)),
        ];
        if members.txn(Txn::new().when(conditions).and_then(puts)).await?.succeeded() {
            return Ok(Ok(number));
        }
    }
    Err(Trouble::Contended)
}

/// Gives a request its outcome, unless it has one.
pub(super) async fn answer(
    members: &Members,
    keys: &Keys,
    number: RequestNumber,
    outcome: &Outcome,
) -> Result<(), Trouble> {
    for _ in 0..TRIES {
        let Some(open) = open(members, keys, number).await? else { return Ok(()) };
        let txn =
            Txn::new().when([is_unchanged(keys, open)]).and_then(ended(keys, number, outcome)?);
        if members.txn(txn).await?.succeeded() {
            return Ok(());
        }
    }
    Err(Trouble::Contended)
}

/// The revision of a request that has no outcome yet.
pub(super) async fn open(
    members: &Members,
    keys: &Keys,
    number: RequestNumber,
) -> Result<Option<i64>, Trouble> {
    let (_, found) = read(members, keys).await?;
    Ok(found.filter(|found| found.request.number == number).map(|found| found.revision))
}

/// What makes an end of the open request.
pub(super) fn ended(
    keys: &Keys,
    number: RequestNumber,
    outcome: &Outcome,
) -> Result<[TxnOp; 2], Trouble> {
    Ok([
        TxnOp::delete(keys.request(), None),
        TxnOp::put(keys.outcome(number.0), encoded(outcome)?, None),
    ])
}

pub(super) fn is_unchanged(keys: &Keys, revision: i64) -> Compare {
    Compare::mod_revision(keys.request(), CompareOp::Equal, revision)
}

/// The open request, and the revision at which it was written.
struct Found {
    request: Request,
    revision: i64,
}

/// How many there were, and the open one.
async fn read(members: &Members, keys: &Keys) -> Result<(Option<Value>, Option<Found>), Trouble> {
    let both = [TxnOp::get(keys.asked(), None), TxnOp::get(keys.request(), None)];
    let answer = members.txn(Txn::new().and_then(both)).await?;
    let mut values = Vec::new();
    for part in answer.op_responses() {
        if let TxnOpResponse::Get(part) = part {
            values.push(part.kvs().first().map(Value::of).transpose()?);
        }
    }
    let [asked, open] =
        <[_; 2]>::try_from(values).map_err(|_fewer| Trouble::Malformed { key: keys.request() })?;
    let found = open.map(|Value { text, revision }| {
        let request = codec::decode(&text)?;
        Ok::<_, Trouble>(Found { request, revision })
    });
    Ok((asked, found.transpose()?))
}

/// Outcomes that no snapshot will show again.
fn forget(keys: &Keys, number: RequestNumber) -> Option<TxnOp> {
    let last = number.0.checked_sub(4 * u64::from(OUTCOMES_SHOWN))?;
    let upto = DeleteOptions::new().with_range(keys.outcome(last));
    Some(TxnOp::delete(keys.outcomes(), Some(upto)))
}

fn encoded(outcome: &Outcome) -> Result<String, Trouble> {
    Ok(codec::encode(&Ended { outcome })?)
}
