//! The settings of the cluster, in one key.

use dugong_topology::Revision;
use etcd_client::{Compare, CompareOp, Txn, TxnOp};

use super::super::codec;
use super::super::{ClusterSettings, Edition};
use super::content::{Value, as_revision, edition};
use super::keys::Keys;
use super::members::Members;
use super::trouble::Trouble;

/// What was written last.
pub(super) async fn read(members: &Members, keys: &Keys) -> Result<Edition, Trouble> {
    let answer = members.get(keys.settings(), None).await?;
    let Some(pair) = answer.kvs().first() else { return Ok(Edition::default()) };
    edition(&Value::of(pair)?)
}

/// The compare-and-swap; none where another edition than that of `at` is there.
pub(super) async fn amend(
    members: &Members,
    keys: &Keys,
    next: &ClusterSettings,
    at: Revision,
) -> Result<Option<Revision>, Trouble> {
    // One that no write can have is nobody's.
    let Ok(at) = i64::try_from(at.0) else { return Ok(None) };
    let same = Compare::mod_revision(keys.settings(), CompareOp::Equal, at);
    let put = TxnOp::put(keys.settings(), codec::encode(next)?, None);
    let answer = members.txn(Txn::new().when([same]).and_then([put])).await?;
    let written = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    Ok(answer.succeeded().then(|| as_revision(written)))
}
