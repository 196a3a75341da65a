//! The threads that encrypt: sessions with TLS on either side live there from their handshake on.
//!
//! All else that is not moving bytes is done by one thread, which serves whoever comes next for less than
//! one that has to be woken. What encrypts has as many threads as there are cores; where the
//! configuration has no TLS there are none.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::config::Config;
use crate::metrics;

/// Starts them, where there is anything to encrypt.
///
/// # Errors
///
/// The system has no thread left.
pub fn start(config: &Config) -> io::Result<Option<Runtime>> {
    if config.client_tls.is_none() && config.server_tls.is_none() {
        return Ok(None);
    }
    Builder::new_multi_thread().thread_name("cipher").enable_all().build().map(Some)
}

/// Begins what goes on until it ends by itself. A panic ends nothing else.
pub fn spawn(threads: &Handle, what: impl Future<Output = ()> + Send + 'static) {
    threads.spawn(async move {
        if AssertUnwindSafe(what).catch_unwind().await.is_err() {
            metrics::count(metrics::PANICS);
            tracing::error!("a session ended in a panic, which is a bug of the proxy");
        }
    });
}
