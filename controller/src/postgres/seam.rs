//! After a promotion: what standbys hold of a record that never became whole.
//!
//! A primary may die in the middle of a record that goes on in the next segment (one whose disk is
//! full dies exactly there). Its standbys hold the first part, and once that is all, ask for the
//! next segment, of the new timeline. But the new primary begins its timeline before that record:
//! it has no such segment yet, answers that it is asked for WAL "ahead of the WAL flush position",
//! and the standbys would ask for ever. With WAL beyond the place that they ask for, they see that
//! it does not go on from what they have, and begin again before the record.
//!
//! Source: PostgreSQL, `WaitForWALToBecomeAvailable`, `StartReplication`.

use dugong_topology::Lsn;

use super::control::{Door, LookError, only, value};

/// Our own message becomes visible to nobody: it need not wait for the sync, which waits for it.
const OPTIONS: &str = "-c synchronous_commit=local -c default_transaction_read_only=off";

const END: &str = "SELECT pg_current_wal_flush_lsn(), setting::bigint \
                   FROM pg_settings WHERE name = 'wal_segment_size'";

/// Brings the end of WAL past each segment that `received` has reached, if it is before one.
pub(super) async fn write_past(door: &Door, received: Lsn) -> Result<(), LookError> {
    let session = door.open("postgres", OPTIONS).await?;
    loop {
        let sets = session.ask(END).await?;
        let row = only(&sets, 0)?;
        let (end, size): (Lsn, u64) = (value(row, 0)?, value(row, 1)?);
        if end > last_boundary(received, size) {
            return Ok(());
        }
        tracing::info!(%end, %received, "a record was cut off between two segments of WAL");
        session.ask("SELECT pg_switch_wal()").await?;
        session.ask("SELECT pg_logical_emit_message(true, 'dugong', '')").await?;
    }
}

/// Where the last segment begins that somebody who has received so much may ask for.
fn last_boundary(received: Lsn, segment: u64) -> Lsn {
    Lsn(received.0 - received.0 % segment.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_boundary_is_at_or_before_what_was_received() {
        #[rustfmt::skip]
        let cases = [
            // received   boundary
            (0x5F7_38A0,  0x500_0000),
            (0x600_0000,  0x600_0000),
            (0x600_0001,  0x600_0000),
        ];
        for (received, boundary) in cases {
            assert_eq!(last_boundary(Lsn(received), 16 << 20), Lsn(boundary), "{received:x}");
        }
    }
}
