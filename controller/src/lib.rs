//! The controller beside each PostgreSQL instance, and the operator's command.
