//! One stable address in front of a cluster: applications connect to it and forget the instances.
//!
//! Reading order, which is the way of a connection:
//!
//! 1. [`listener`]: accepts it. [`runtime`] has made the listeners and ends everything in order.
//! 2. [`handshake`]: reads its first packet, and nothing more. A cancel request goes to [`cancel`].
//! 3. [`session`]: finds a server ([`route`], [`replicas`]), waits while there is none ([`gate`]), tells the client
//!    when it must end.
//! 4. [`relay`]: moves the bytes.
//!
//! Beside it: [`watch`] learns the topology from the controllers, [`names`] finds what is named by
//! host or service, [`wire`] knows PostgreSQL's messages, [`admin`] answers over HTTP, [`metrics`] is the table of what is counted.
//!
//! **Invariant:** the proxy decides nothing about the cluster. It believes the topology with the
//! highest (generation, revision), and depends on `dugong-topology` alone.
//!
//! Source: DESIGN.md.

#![deny(unsafe_code)]

pub mod admin;
pub mod admission;
pub mod cancel;
pub mod ciphers;
pub mod cli;
pub mod config;
pub mod error;
pub mod gate;
pub mod handshake;
pub mod lifeline;
pub mod listener;
pub mod lobby;
pub mod metrics;
pub mod names;
pub mod rarely;
pub mod relay;
pub mod replicas;
pub mod route;
pub mod runtime;
pub mod service;
pub mod session;
pub mod shortage;
pub mod shutdown;
pub mod socket;
pub mod stream;
pub mod tls;
pub mod watch;
pub mod wire;
