//! The proxy's own binary between real clients and real servers.
//!
//! [`postgres`] are real servers, [`controller`] publishes what a test wants the proxy to believe,
//! [`fake_server`] is for what a real server does too rarely or too fast, [`name_server`] answers for
//! names, [`authority`] signs certificates, [`psql`] is the real one. Each test has a proxy of its own; all may run at once.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]
#![expect(clippy::print_stderr, reason = "and shows the logs of its processes")]

mod authority;
mod balance;
mod controller;
mod eventually;
mod fake_server;
mod name_server;
mod postgres;
mod proxy;
mod psql;

mod engines;
mod failover;
mod handover;
mod handshake;
mod hold;
mod https;
mod lobby;
mod names;
mod process;
mod server_tls;
mod sessions;
mod tcp;
mod tls;
