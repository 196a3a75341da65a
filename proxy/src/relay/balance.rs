//! On how many threads the sessions are: gathered while one carries the load, spread when it does not.
//!
//! A thread that is awake already serves the next session for less than one that has to be woken, so
//! that few busy threads cost less than many idle ones. What counts is a thread's own processor time:
//! that it waits for a core is no reason to want another one.
//!
//! What sessions would cost on one thread cannot be told from what they cost on two: as much where they
//! pass on bulk, an eighth to a quarter less where they ask little and often (`floor-uring-1` and `-2`
//! of bench/results). So it is tried, and tried less and less often where it failed.
//!
//! Pure: [`Balance::judge`] gets one window's loads and says what to change.
//!
//! **Invariant:** one move a window at most. A load that stays as it is moves ever more seldom.

/// From this share of its time on, a thread has too much to do.
const BUSY: f64 = 0.85;

/// Up to this share, a thread takes sessions of a busy one.
const ROOM: f64 = 0.5;

/// Two threads that do less than this together may be one too many: it is tried. With more to do, one
/// would be busy, or nearly so, even for a quarter less.
const CALM: f64 = 1.0;

/// Windows in a row that a thread is busy before sessions are moved away.
const BUSY_WINDOWS: u32 = 2;

/// Windows in a row that threads are calm before they are gathered: sessions come and go.
const CALM_WINDOWS: u32 = 10;

/// The same at most: it doubles each time that what was gathered has to be spread again.
const MOST_CALM_WINDOWS: u32 = 1280;

/// Windows after which what was gathered has lasted.
const LASTING: u32 = 50;

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
#[derive(Debug)]
pub(super) struct Balance {
    busy_windows: u32,
    calm_windows: u32,
    /// Calm windows that are waited for.
    patience: u32,
    /// Windows since sessions were gathered, until that has lasted.
    gathered: Option<u32>,
}

impl Default for Balance {
    fn default() -> Self {
        Self { busy_windows: 0, calm_windows: 0, patience: CALM_WINDOWS, gathered: None }
    }
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
        self.gathered = self.gathered.map(|windows| windows + 1);
        if self.gathered == Some(LASTING) {
            (self.gathered, self.patience) = (None, CALM_WINDOWS);
        }
        let moving = if self.busy_windows >= BUSY_WINDOWS {
            if self.gathered.take().is_some() {
                self.patience = (self.patience * 2).min(MOST_CALM_WINDOWS);
            }
            spreading
        } else if self.calm_windows >= self.patience {
            self.gathered = Some(0);
            gathering
        } else {
            None
        };
        if moving.is_some() {
            (self.busy_windows, self.calm_windows) = (0, 0);
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
            ("one carries the load",        loads([(0.84, 90), (0.0, 0)]),  0),
            ("one does not",                loads([(0.86, 90), (0.1, 3)]),  1),
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
            ("busy, and room elsewhere",    loads([(0.9, 9), (0.0, 0)]),    2,  half(0, 1, 4)),
            ("busy, for one window",        loads([(0.9, 9), (0.0, 0)]),    1,  None),
            ("busy with one session",       loads([(1.0, 1), (0.0, 0)]),    10, None),
            ("busier than the other",       loads([(0.4, 9), (0.9, 9)]),    2,  half(1, 0, 2)),
            ("both are busy",               loads([(0.9, 9), (0.9, 9)]),    10, None),
            ("calm on two",                 loads([(0.1, 9), (0.2, 7)]),    10, half(1, 0, 7)),
            ("calm on two, for a moment",   loads([(0.1, 9), (0.2, 7)]),    9,  None),
            ("not calm enough together",    loads([(0.6, 9), (0.55, 7)]),   10, None),
        ];
        for (what, loads, windows, expected) in cases {
            let mut balance = Balance::default();
            let last = (0..windows).map(|_| balance.judge(&loads).moving).last();
            assert_eq!(last, Some(expected), "{what}");
        }
    }

    /// The moves in so many windows of a load that stays as it is, which begins on the first thread;
    /// how much of it a thread feels, by its part of the sessions.
    fn moves(windows: u32, felt: impl Fn(f64) -> f64) -> u32 {
        let mut balance = Balance::default();
        let (mut sessions, mut moves) = ([16, 0], 0);
        for _ in 0..windows {
            let loads = sessions.map(|sessions| Load {
                share: felt(f64::from(u32::try_from(sessions).unwrap()) / 16.0),
                sessions,
            });
            if let Some(Move { from, to, sessions: moved }) = balance.judge(&loads).moving {
                moves += 1;
                sessions[from] -= moved;
                sessions[to] += moved;
            }
        }
        moves
    }

    #[test]
    fn a_load_that_stays_as_it_is_moves_ever_more_seldom() {
        for whole in [0.3, 0.5, 0.8] {
            assert_eq!(moves(20_000, |part| whole * part), 0, "{whole} of one thread");
        }
        for whole in [0.86, 0.9, 1.0] {
            let (some, many) = (3_000, 20_000);
            assert!(moves(some, |part| whole * part) < 20, "{whole} of one thread");
            assert!(moves(many, |part| whole * part) < 50, "{whole} of one thread");
        }
        assert_eq!(moves(20_000, |part| 2.0 * part), 1, "more than one thread can do");
    }

    #[test]
    fn what_one_thread_carries_is_gathered_and_stays() {
        let mut balance = Balance::default();
        let on_two = loads([(0.5, 16), (0.4, 16)]);
        let gathered = (0..CALM_WINDOWS).filter_map(|_| balance.judge(&on_two).moving).last();
        assert_eq!(gathered, Some(Move { from: 1, to: 0, sessions: 16 }));
        let on_one = loads([(0.7, 32), (0.0, 0)]);
        assert!((0..1_000).all(|_| balance.judge(&on_one).moving.is_none()));
        assert_eq!(balance.patience, CALM_WINDOWS);
    }
}
