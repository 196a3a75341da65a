//! Every SQLSTATE that the proxy itself answers with.
//!
//! Source: PostgreSQL manual, appendix "PostgreSQL Error Codes".

use std::fmt;

/// A five-character error code, as drivers look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlState(&'static str);

impl SqlState {
    /// `protocol_violation`: the peer did not speak PostgreSQL's protocol, or not in time.
    pub const PROTOCOL_VIOLATION: Self = Self("08P01");
    /// `invalid_authorization_specification`: who comes like this is not let in.
    pub const NOT_AUTHORIZED: Self = Self("28000");
    /// `too_many_connections`: a limit on clients is reached. Nothing was sent to a server.
    pub const TOO_MANY_CONNECTIONS: Self = Self("53300");
    /// `admin_shutdown`: the session ends now; drivers and pools connect again on it.
    pub const ADMIN_SHUTDOWN: Self = Self("57P01");
    /// `cannot_connect_now`: nobody could serve the client yet. Safe to retry.
    pub const CANNOT_CONNECT_NOW: Self = Self("57P03");

    /// The code as text.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
