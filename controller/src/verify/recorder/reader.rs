//! The client at the read address: looks at the newest rows, again and again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::client::tips_in;
use super::connection::{Connection, Door};
use super::shared::Shared;
use crate::verify::history::{Glance, History};
use crate::verify::outcome::Cause;

/// Between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(10);

/// Answers are read on one connection for so long: behind one address there may be several standbys.
const STAY: u32 = 100;

/// What the read address has answered.
#[derive(Debug, Default)]
pub(super) struct Glances {
    glances: Vec<Glance>,
    failed: BTreeMap<Cause, u64>,
}

impl Glances {
    pub(super) fn add_to(self, history: &mut History) {
        history.glances.get_or_insert_default().extend(self.glances);
        for (cause, count) in self.failed {
            *history.failed_glances.entry(cause).or_default() += count;
        }
    }
}

/// Reads until everybody is told to end.
pub(super) async fn work(door: Door, shared: Arc<Shared>) -> Glances {
    let mut found = Glances::default();
    let mut pace = interval(shared.pace.max(Duration::from_micros(1)));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // With the number of answers that it may still give.
    let mut connection: Option<(Connection, u32)> = None;
    while !shared.is_stopped() {
        let Some((open, left)) =
            connection.as_mut().filter(|(connection, left)| *left > 0 && !connection.is_lost())
        else {
            drop(connection.take());
            // Nothing was asked yet: an attempt can be dropped at any time.
            tokio::select! {
                opened = door.open() => match opened {
                    Ok(opened) => connection = Some((opened, STAY)),
                    Err(trouble) => {
                        *found.failed.entry(trouble.cause).or_default() += 1;
                        tokio::time::sleep(RECONNECT).await;
                    }
                },
                () = shared.stopped() => (),
            }
            continue;
        };
        *left -= 1;
        // Whoever is told to end need not wait for its turn.
        tokio::select! {
            _ = pace.tick() => (),
            () = shared.stopped() => break,
        }
        let called = shared.now();
        let told = open.ask(&shared, &shared.tables.tips()).await;
        match told.map_err(|trouble| trouble.cause).and_then(|answer| tips_in(&answer)) {
            Ok(tips) => {
                shared.glanced();
                found.glances.push(Glance { called, returned: shared.now(), tips });
            }
            Err(cause) => *found.failed.entry(cause).or_default() += 1,
        }
    }
    found
}
