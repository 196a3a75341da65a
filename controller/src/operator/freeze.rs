//! `dugong freeze` and `dugong unfreeze`: whether roles change by themselves.

use clap::Args;

use super::caller::Caller;
use super::reach::ReachOptions;
use crate::run::Failure;

/// What `dugong freeze` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
While a cluster is frozen nobody takes over, no sync is replaced and nobody joins, whatever is
lost: writes wait until what is lost is back. Servers run on in their roles, and a primary whose
server died is started again. The freeze stays until `dugong unfreeze`, also over `dugong down`.

Example:
  dugong freeze --why 'new disks in pg-2'")]
pub struct FreezeOptions {
    #[command(flatten)]
    pub reach: ReachOptions,
    /// The reason, for whoever wonders: `dugong status` shows it.
    #[arg(long, value_name = "TEXT")]
    pub why: String,
}

/// What `dugong unfreeze` is told.
#[derive(Args, Clone, Debug)]
pub struct UnfreezeOptions {
    #[command(flatten)]
    pub reach: ReachOptions,
}

/// Freezes the cluster; says so.
///
/// # Errors
///
/// Somebody else froze it before, or no controller answers.
pub async fn freeze(options: &FreezeOptions) -> Result<String, Failure> {
    let why = options.why.trim();
    if why.is_empty() {
        return Err(Failure::Usage("--why must say something: others have to know".to_owned()));
    }
    let caller = Caller::of(&options.reach)?;
    match caller.freeze(why.to_owned()).await?.before {
        None => Ok("frozen: nothing changes by itself until `dugong unfreeze`".to_owned()),
        Some(before) => Err(Failure::Runtime(format!(
            "frozen already, by {} since {}: {}",
            before.by, before.since, before.why
        ))),
    }
}

/// Takes the freeze back; says so.
///
/// # Errors
///
/// No controller answers.
pub async fn unfreeze(options: &UnfreezeOptions) -> Result<String, Failure> {
    let caller = Caller::of(&options.reach)?;
    Ok(match caller.unfreeze().await?.before {
        Some(before) => {
            format!("no longer frozen (it was by {} since {})", before.by, before.since)
        }
        None => "it was not frozen".to_owned(),
    })
}
