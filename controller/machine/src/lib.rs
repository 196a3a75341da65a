//! The replication state machine, free of I/O.
