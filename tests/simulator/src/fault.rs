//! Everything that goes wrong, and when: drawn from a seed, written down before the run begins.

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;
use crate::moment::Moment;
use crate::network::{Fate, Place, Places};

/// One thing that goes wrong. Where a span follows, it is over after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the postmaster.
    KillServer(usize),
    /// SIGKILL to the controller; the scheduler starts it again.
    KillController(usize, Duration),
    /// The operator ends one instance in order, and starts it again.
    Restart(usize, Duration),
    /// Power goes: what no disk has is lost.
    PowerLoss(usize, Duration),
    /// SIGSTOP, then SIGCONT, to the controller.
    PauseController(usize, Duration),
    /// SIGSTOP, then SIGCONT, to all of the server.
    PauseServer(usize, Duration),
    /// The whole machine sleeps.
    PauseMachine(usize, Duration),
    /// One direction between two places is cut.
    CutLink(Place, Place, Fate, Duration),
    /// Both directions between two places are cut.
    CutPair(Place, Place, Fate, Duration),
    /// These places on one side, all others on the other one.
    Split(Places, Fate, Duration),
    /// Nobody reaches the store.
    StoreDown(Duration),
    /// The network takes a multiple of its time.
    SlowNetwork(u64, Duration),
    /// The data directory is destroyed; put off until the cluster is whole.
    DestroyData(usize),
    /// The local clock gains or loses: microseconds in a million.
    Drift(usize, u64),
    /// The operator forbids transitions.
    Freeze(Duration),
    /// The operator asks for another primary: this one, or whoever is the sync.
    Switchover(Option<usize>),
}

/// How many kinds there are.
pub const KINDS: usize = 16;

const KIND_NAMES: [&str; KINDS] = [
    "server killed",
    "controller killed",
    "instance restarted in order",
    "power lost",
    "controller paused",
    "server paused",
    "machine paused",
    "one direction cut",
    "pair cut",
    "network split",
    "store down",
    "network slow",
    "data destroyed",
    "clock drifts",
    "frozen",
    "switchover asked for",
];

/// Clocks of one cluster differ by less than a tenth, which is what the leases allow for.
const DRIFT: (u64, u64) = (960_000, 1_040_000);

impl Fault {
    /// `victim`: who is meant in most cases, since one instance has troubles of its own.
    fn draw(dice: &mut Dice, size: usize, victim: Option<usize>) -> Self {
        let any = dice.index(size);
        let node = victim.filter(|_| dice.chance(75)).unwrap_or(any);
        let other = (node + 1 + dice.index(size - 1)) % size;
        let here = Place::Instance(node);
        let there = match dice.index(4) {
            0 => Place::Store,
            1 => Place::Proxy(dice.index(3)),
            2 if dice.chance(50) => Place::Store,
            _ => Place::Instance(other),
        };
        let fate = if dice.chance(50) { Fate::Lost } else { Fate::Late };
        let brief = Duration::from_millis(dice.between(1, 700));
        // Around the protocol's own times is where two things come at once.
        let time = [2_000, 2_200, 3_000, 5_000][dice.index(4)];
        let close = Duration::from_millis(dice.between(time - 150, time + 400));
        let long = Duration::from_millis(dice.between(500, 12_000));
        let span = [brief, close, long][dice.index(3)];
        let proxy = Place::Proxy(dice.index(3));
        match dice.index(43) {
            0..4 => Self::KillServer(node),
            4..8 => Self::KillController(node, span),
            8 => Self::Restart(node, span),
            9..12 => Self::PowerLoss(node, span),
            12..15 => Self::PauseController(node, span),
            15..17 => Self::PauseServer(node, span),
            17..19 => Self::PauseMachine(node, span),
            19..21 => Self::CutLink(here, there, fate, span),
            21 => Self::CutLink(there, here, fate, span),
            22..25 => Self::CutPair(here, there, fate, span),
            25..28 => Self::Split(Places::just(&[here]), fate, span),
            // An instance and clients that reach it alone: what a careless primary would serve.
            34..38 => Self::Split(Places::just(&[here, proxy]), fate, span),
            38 | 39 => Self::Split(Places::drawn(dice.throw()), fate, span),
            40..42 => Self::Switchover(None),
            42 => Self::Switchover(Some(other)),
            28 => Self::StoreDown(span),
            29 => Self::SlowNetwork(dice.between(5, 60), span),
            30 => Self::DestroyData(node),
            31 | 32 => Self::Drift(node, dice.between(DRIFT.0, DRIFT.1)),
            _ => Self::Freeze(span),
        }
    }

    /// The names of all kinds, by number.
    pub fn names() -> [&'static str; KINDS] {
        KIND_NAMES
    }

    /// Its kind, for statistics.
    pub fn kind(&self) -> usize {
        match self {
            Self::KillServer(_) => 0,
            Self::KillController(..) => 1,
            Self::Restart(..) => 2,
            Self::PowerLoss(..) => 3,
            Self::PauseController(..) => 4,
            Self::PauseServer(..) => 5,
            Self::PauseMachine(..) => 6,
            Self::CutLink(..) => 7,
            Self::CutPair(..) => 8,
            Self::Split(..) => 9,
            Self::StoreDown(_) => 10,
            Self::SlowNetwork(..) => 11,
            Self::DestroyData(_) => 12,
            Self::Drift(..) => 13,
            Self::Freeze(_) => 14,
            Self::Switchover(_) => 15,
        }
    }

    /// How long it lasts.
    pub fn span(&self) -> Duration {
        match *self {
            Self::KillServer(_) | Self::DestroyData(_) | Self::Drift(..) | Self::Switchover(_) => {
                Duration::ZERO
            }
            Self::KillController(_, span)
            | Self::Restart(_, span)
            | Self::PowerLoss(_, span)
            | Self::PauseController(_, span)
            | Self::PauseServer(_, span)
            | Self::PauseMachine(_, span)
            | Self::CutLink(_, _, _, span)
            | Self::CutPair(_, _, _, span)
            | Self::Split(_, _, span)
            | Self::StoreDown(span)
            | Self::SlowNetwork(_, span)
            | Self::Freeze(span) => span,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = KIND_NAMES[self.kind()];
        match self {
            Self::KillServer(node)
            | Self::KillController(node, _)
            | Self::Restart(node, _)
            | Self::PowerLoss(node, _)
            | Self::PauseController(node, _)
            | Self::PauseServer(node, _)
            | Self::PauseMachine(node, _)
            | Self::DestroyData(node) => write!(f, "pg-{}: {kind}", node + 1)?,
            Self::CutLink(from, to, fate, _) => write!(f, "{kind}: {from} to {to}, {fate:?}")?,
            Self::CutPair(a, b, fate, _) => write!(f, "{kind}: {a} and {b}, {fate:?}")?,
            Self::Split(places, fate, _) => {
                write!(f, "{kind}:")?;
                let instances = (0..6).map(Place::Instance);
                let all =
                    [Place::Store, Place::Proxy(0), Place::Proxy(1), Place::Proxy(2)].into_iter();
                for place in all.chain(instances).filter(|place| places.contains(*place)) {
                    write!(f, " {place},")?;
                }
                write!(f, " {fate:?}")?;
            }
            Self::StoreDown(_) | Self::Freeze(_) | Self::Switchover(None) => f.write_str(kind)?,
            Self::Switchover(Some(to)) => write!(f, "{kind}: to pg-{}", to + 1)?,
            Self::SlowNetwork(factor, _) => write!(f, "{kind}: {factor} times")?,
            Self::Drift(node, rate) => {
                return write!(
                    f,
                    "pg-{}: {kind} at {}.{:04}",
                    node + 1,
                    rate / 1_000_000,
                    rate % 1_000_000 / 100
                );
            }
        }
        if self.span() > Duration::ZERO { write!(f, ", for {:?}", self.span()) } else { Ok(()) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(node) => write!(f, "pg-{}", node + 1),
            Self::Store => f.write_str("store"),
            Self::Proxy(number) => write!(f, "proxy {}", number + 1),
        }
    }
}

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    At(Moment),
    /// So long after the turn of this number: where mistakes hide.
    Turn(u64, Duration),
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => write!(f, "{at}"),
            Self::Turn(number, delay) => write!(f, "{delay:?} after turn {number}"),
        }
    }
}

/// A whole run, but for its small chances.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    /// How many instances.
    pub size: usize,
    /// The first instance begins the cluster alone, and the others come later.
    pub one_node: bool,
    pub faults: Vec<(When, Fault)>,
}

impl Scenario {
    /// Faults come in bursts: alone, or several within a second, as real ones do. A third of them
    /// wait for a turn: a declaration, a session that lapses, a server that ends, opens, or leaves
    /// recovery.
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5EED);
        let size = if dice.chance(75) { 3 } else { 3 + dice.index(3) };
        let victim = Some(dice.index(size)).filter(|_| dice.chance(50));
        let hasty = dice.chance(40);
        let mut at = Moment(dice.between(0, 12_000_000));
        let mut faults = Vec::new();
        for _ in 0..dice.between(1, 12) {
            let fault = Fault::draw(&mut dice, size, victim);
            if dice.chance(33) {
                let turn = dice.between(3, 30);
                let delay = Duration::from_micros(dice.between(0, 300_000));
                faults.push((When::Turn(turn, delay), fault));
                continue;
            }
            faults.push((When::At(at), fault));
            let pause = match dice.index(3) {
                0 => dice.between(1, 300),
                1 => dice.between(100, 3_000),
                2 if hasty => dice.between(100, 1_500),
                _ => dice.between(1_000, 9_000),
            };
            at = at.after(Duration::from_millis(pause));
        }
        let one_node = dice.chance(8);
        Self { seed, size, one_node, faults }
    }
}
