//! Data that an operator has given up: it stays where it is until a copy takes its place.
//!
//! To the protocol it is data that was lost, which may happen at any time. The mark is a file within
//! it, so that it goes wherever the data goes.
//!
//! **Invariant:** from the mark on no server is ever started on it: it counts as no data
//! ([`examine`](super::data_dir::examine)), and only a copy can end that.

use std::fs;
use std::io;
use std::path::Path;

use dugong_machine::Upstream;
use dugong_topology::{Address, InstanceId};
use serde::{Deserialize, Serialize};

use super::layout::{Durability, replace_file};

const MARK: &str = "dugong.given-up.json";

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Whom to copy; none: the left neighbour.
    from: Option<Source>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Source {
    id: InstanceId,
    address: Address,
}

/// Gives the data up, to be copied from there; on disk when this returns.
pub(super) fn mark(data: &Path, from: Option<&Upstream>) -> io::Result<()> {
    let from = from.map(|from| Source { id: from.id.clone(), address: from.address.clone() });
    let text = serde_json::to_string(&Mark { from })?;
    replace_file(&data.join(MARK), &text, Durability::Durable)
}

/// Whether the data was given up.
pub(super) fn is_marked(data: &Path) -> bool {
    data.join(MARK).exists()
}

/// Whom whoever gave it up has chosen to copy.
pub(super) fn chosen(data: &Path) -> Option<Upstream> {
    let text = fs::read_to_string(data.join(MARK)).ok()?;
    // A mark that cannot be read is one all the same, without a choice.
    let Mark { from } = serde_json::from_str(&text).ok()?;
    from.map(|Source { id, address }| Upstream { id, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_remembers_whom_to_copy() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        assert!(!is_marked(data));
        let source = Upstream { id: "pg-1".parse().unwrap(), address: Address::loopback(5432) };
        mark(data, Some(&source)).unwrap();
        assert!(is_marked(data));
        assert_eq!(chosen(data), Some(source));
        mark(data, None).unwrap();
        assert_eq!((is_marked(data), chosen(data)), (true, None));
        fs::write(data.join(MARK), "moon").unwrap();
        assert_eq!((is_marked(data), chosen(data)), (true, None));
    }
}
