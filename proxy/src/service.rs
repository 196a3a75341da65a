//! What a service manager is told, where one asks: that the proxy is ready, that it lives, and that
//! it ends.
//!
//! Source: systemd, `sd_notify(3)` and `sd_watchdog_enabled(3)`.

use std::future::pending;
use std::time::Duration;

use sd_notify::NotifyState;

/// Within the limit of the watchdog it is told so many times.
const TIMES: u32 = 3;

/// All ports are open.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// Nobody new is accepted any more.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// Tells the watchdog, where there is one, that tasks have their turns, for ever.
pub async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return pending().await };
    loop {
        tell(NotifyState::Watchdog);
        tokio::time::sleep((limit / TIMES).max(Duration::from_millis(1))).await;
    }
}

fn tell(state: NotifyState<'_>) {
    let told = format!("{state:?}");
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager was not told {told}: look at NOTIFY_SOCKET");
    }
}
