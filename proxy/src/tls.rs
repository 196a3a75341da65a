//! TLS: towards clients, who see our certificate, and towards servers, whose we verify.
//!
//! Certificates do not depend on the name that a client asks for (SNI), and are exchanged while the
//! proxy runs. Nothing here knows PostgreSQL's protocol, but for the name that it has in ALPN.
//!
//! **Invariant:** a file that is not good is refused whole; what was in use stays.

pub mod clients;
pub mod exchange;
pub mod servers;

/// PostgreSQL's name in ALPN. Source: PostgreSQL manual, "SSL Session Encryption".
pub const ALPN: &[u8] = b"postgresql";
