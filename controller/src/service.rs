//! What a service manager is told, where one asks: that the controller is ready, that it lives, and
//! that it ends.
//!
//! It lives as long as the driver takes its turns. One that does not is worth nothing, whatever its
//! other threads do: with `WatchdogSec=` systemd starts another one in its place.
//!
//! Source: systemd, `sd_notify(3)` and `sd_watchdog_enabled(3)`.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::driver::Local;

/// Where a service manager listens. Not for servers: PostgreSQL would take it for its own.
pub(crate) const SOCKET: &str = "NOTIFY_SOCKET";

/// Within the limit of the watchdog it is told so many times.
const TIMES: u32 = 3;

/// The controller answers whoever asks.
pub(crate) fn ready() {
    tell(NotifyState::Ready);
}

/// The controller ends, in order.
pub(crate) fn stopping() {
    tell(NotifyState::Stopping);
}

/// Tells the watchdog, where there is one, that the driver has taken a turn, for ever.
pub(crate) async fn watchdog(local: watch::Receiver<Local>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut seen = None;
    loop {
        let stepped_at = local.borrow().stepped_at;
        if seen.replace(stepped_at) != Some(stepped_at) {
            tell(NotifyState::Watchdog);
        }
        tokio::time::sleep((limit / TIMES).max(Duration::from_millis(1))).await;
    }
}

fn tell(state: NotifyState<'_>) {
    let told = format!("{state:?}");
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager was not told {told}: look at {SOCKET}");
    }
}
