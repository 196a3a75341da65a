//! How many descriptors this process, and those that it starts, may have.

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to what is wanted, or as far as it goes; says how far that is.
pub(crate) fn raise_file_limit(wanted: u64) -> anyhow::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    // Root may go beyond the hard limit; others as far as that.
    for maximum in [maximum, limit.maximum] {
        if setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
            return Ok(maximum.unwrap_or(u64::MAX));
        }
    }
    bail!("the limit of open files stays at {:?}: raise it with ulimit -n", limit.current);
}
