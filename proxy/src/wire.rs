//! PostgreSQL's protocol, as far as the proxy looks at it.
//!
//! | module | looks at |
//! | --- | --- |
//! | [`startup`] | the first packet of a client, which has a length and no type |
//! | [`scan`] | the five header bytes of each later message, never its body |
//! | [`sasl`] | how a password is going to be proven |
//! | [`message`] | the few messages that are read or written whole |
//! | [`sqlstate`] | the codes that the proxy itself answers with |
//!
//! **Invariant:** no I/O, and nothing that a peer sends can make these functions panic or allocate
//! in proportion to a length that it merely claims.
//!
//! Source: PostgreSQL manual, "Frontend/Backend Protocol", "Message Formats".

pub mod message;
pub mod sasl;
pub mod scan;
pub mod sqlstate;
pub mod startup;
