//! What differs between PostgreSQL's major versions, as far as Dugong has to know.
//!
//! Whatever is not here is the same in all of them; `tests/endtoend/versions.rs` tries it. Words that
//! PostgreSQL has changed (of `psql` that finds no server, say) are taken in all of their forms where
//! they are read.
//!
//! Source: the release notes, "Migration to Version …" and "Changes", of the version that is named.

/// The oldest: since 13 a reload gives a standby another upstream (`primary_conninfo`), and a base
/// backup has a manifest that it can be verified by.
pub(super) const OLDEST: u32 = 13;

/// The newest that was tried.
pub(super) const NEWEST_TRIED: u32 = 18;

/// The first minor version that is advised; none where any will do. Before it, a primary that dies in
/// the middle of a record leaves WAL that cannot be followed or copied, and (13) the manifest of a copy
/// names WAL from the beginning of its timeline, so that old timelines cannot be copied. 13.5 and 14.1,
/// "Fix physical replication for cases where the primary crashes"; "WAL-Ranges across timelines".
pub(super) fn least_minor(major: u32) -> Option<u32> {
    match major {
        13 => Some(5),
        14 => Some(1),
        _ => None,
    }
}

/// A setting that only `postgres -C` computes after libraries are loaded and combinations looked at:
/// whoever asks for it has all of the configuration judged. 15: `postgres -C` computes settings at all.
pub(super) fn computed_last(major: u32) -> Option<&'static str> {
    (major >= 15).then_some("shared_memory_size")
}

/// A setting for a file that promotes a standby, which 16 has no more.
pub(super) fn promoting_file(major: u32) -> Option<&'static str> {
    (major < 16).then_some("promote_trigger_file")
}

/// Whether a standby can copy logical slots from its primary, and consumers be made to wait for a
/// standby: 17, "Logical Replication".
pub(super) fn has_failover_slots(major: u32) -> bool {
    major >= 17
}
