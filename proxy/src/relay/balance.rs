//! On how many threads the sessions are: gathered while one carries the load, spread when it does not.
//!
//! A thread that is awake already serves the next session for less than one that has to be woken, so
//! that few busy threads cost less than many idle ones. What counts is a thread's own processor time:
//! that it waits for a core is no reason to want another one.
//!
//! Pure: [`Balance::judge`] gets one window's loads and says what to change.
//!
//! **Invariant:** one move a window at most, and none that would be taken back in the next window:
//! what is spread was above [`BUSY`], what is gathered stays below [`CALM`] together.

/// From this share of its time on, a thread has too much to do.
const BUSY: f64 = 0.75;

/// Up to this share, a thread takes sessions of a busy one.
const ROOM: f64 = 0.5;

/// Two threads that do less than this together are one too many.
const CALM: f64 = 0.4;

/// Windows in a row that a thread is busy before sessions are moved away.
const BUSY_WINDOWS: u32 = 2;

/// Windows in a row that threads are calm before they are gathered: sessions come and go.
const CALM_WINDOWS: u32 = 10;

/// What one thread did in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    /// Of one core's time.
    pub(super) share: f64,
    pub(super) sessions: usize,
}

/// Sessions that change their thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) sessions: usize,
}

/// What to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The thread that new sessions go to.
    pub(super) newcomers: usize,
    pub(super) moving: Option<Move>,
}

/// What past windows were like.
#[derive(Debug, Default)]
pub(super) struct Balance {
    busy_windows: u32,
    calm_windows: u32,
}

impl Balance {
    /// Says what to change after a window. At least one load.
    pub(super) fn judge(&mut self, loads: &[Load]) -> Plan {
        let newcomers = loads.iter().position(|load| load.share < BUSY);
        let newcomers = newcomers.unwrap_or_else(|| calmest(loads));
        let spreading = spread(loads);
        let gathering = gather(loads).filter(|_| spreading.is_none());
        self.busy_windows = if spreading.is_some() { self.busy_windows + 1 } else { 0 };
        self.calm_windows = if gathering.is_some() { self.calm_windows + 1 } else { 0 };
        let moving = if self.busy_windows >= BUSY_WINDOWS {
            spreading
        } else if self.calm_windows >= CALM_WINDOWS {
            gathering
        } else {
            None
        };
        if moving.is_some() {
            *self = Self::default();
        }
        Plan { newcomers, moving }
    }
}

fn calmest(loads: &[Load]) -> usize {
    let shares = loads.iter().map(|load| load.share).enumerate();
    shares.min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(index, _)| index)
}

/// From the busiest thread to the calmest, so that both have as much to do.
fn spread(loads: &[Load]) -> Option<Move> {
    let shares = loads.iter().map(|load| load.share).enumerate();
    let (from, share) = shares.max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let to = calmest(loads);
    if share < BUSY || loads[to].share > ROOM {
        return None;
    }
    let surplus = (share - loads[to].share) / 2.0 / share;
    let sessions = part_of(loads[from].sessions, surplus);
    (sessions > 0).then_some(Move { from, to, sessions })
}

/// Rounded down, so that a thread keeps its only session.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a part of the sessions of one thread, from 0 to 1 of them"
)]
fn part_of(sessions: usize, part: f64) -> usize {
    (sessions as f64 * part) as usize
}

/// All of the last thread that has sessions, to the first one that has room for them.
fn gather(loads: &[Load]) -> Option<Move> {
    let from = loads.iter().rposition(|load| load.sessions > 0)?;
    let together = |load: &Load| load.share + loads[from].share < CALM;
    let to = loads[..from].iter().position(together)?;
    Some(Move { from, to, sessions: loads[from].sessions })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads<const N: usize>(of: [(f64, usize); N]) -> [Load; N] {
        of.map(|(share, sessions)| Load { share, sessions })
    }

    #[test]
    fn newcomers_go_to_the_first_thread_that_is_not_busy() {
        #[rustfmt::skip]
        let cases = [
            ("nobody has anything to do",   loads([(0.0, 0), (0.0, 0)]),    0),
            ("one carries the load",        loads([(0.74, 90), (0.0, 0)]),  0),
            ("one does not",                loads([(0.76, 90), (0.1, 3)]),  1),
            ("none does",                   loads([(0.99, 90), (0.9, 80)]), 1),
        ];
        for (what, loads, expected) in cases {
            assert_eq!(Balance::default().judge(&loads).newcomers, expected, "{what}");
        }
    }

    #[test]
    fn sessions_move_only_when_that_lasts() {
        let half = |from, to, sessions| Some(Move { from, to, sessions });
        #[rustfmt::skip]
        let cases = [
            ("calm on one thread",          loads([(0.3, 9), (0.0, 0)]),    10, None),
            ("busy, and room elsewhere",    loads([(0.8, 9), (0.0, 0)]),    2,  half(0, 1, 4)),
            ("busy, for one window",        loads([(0.8, 9), (0.0, 0)]),    1,  None),
            ("busy with one session",       loads([(1.0, 1), (0.0, 0)]),    10, None),
            ("busier than the other",       loads([(0.4, 9), (0.9, 9)]),    2,  half(1, 0, 2)),
            ("both are busy",               loads([(0.8, 9), (0.9, 9)]),    10, None),
            ("calm on two",                 loads([(0.1, 9), (0.2, 7)]),    10, half(1, 0, 7)),
            ("calm on two, for a moment",   loads([(0.1, 9), (0.2, 7)]),    9,  None),
            ("not calm enough together",    loads([(0.2, 9), (0.25, 7)]),   10, None),
        ];
        for (what, loads, windows, expected) in cases {
            let mut balance = Balance::default();
            let last = (0..windows).map(|_| balance.judge(&loads).moving).last();
            assert_eq!(last, Some(expected), "{what}");
        }
    }

    #[test]
    fn what_was_moved_is_not_moved_back() {
        let mut balance = Balance::default();
        // Sixteen sessions of the same weight, on threads that they would keep busy to these shares.
        for whole in [0.3, 0.5, 0.76, 0.9, 1.0] {
            let mut sessions = [16, 0];
            let mut moves = 0;
            for _ in 0..200 {
                let loads = sessions.map(|sessions| Load {
                    share: whole * f64::from(u32::try_from(sessions).unwrap()) / 16.0,
                    sessions,
                });
                if let Some(Move { from, to, sessions: moved }) = balance.judge(&loads).moving {
                    moves += 1;
                    sessions[from] -= moved;
                    sessions[to] += moved;
                }
            }
            assert!(moves <= 1, "a load of {whole} moved {moves} times");
        }
    }
}
