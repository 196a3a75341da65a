//! What was set out to be reached, and what was: the verdict is the measurement's, not ours.
//!
//! Ratios are taken within each round; the verdict is about their median.

use crate::proxies::contenders::{Build, Contender, Mode, Pooling, Splice};
use crate::proxies::crowd::Crowd;
use crate::proxies::idle::Towards;
use crate::proxies::measure::Measured;
use crate::proxies::results::{Results, Spread};
use crate::relay::Engine;

/// One figure that was set out to be reached.
pub(crate) struct Goal {
    pub(crate) what: String,
    /// At most, or at least, in words.
    pub(crate) wanted: String,
    pub(crate) measured: String,
    /// The same figure of the best floor, or of nobody in between.
    pub(crate) floor: String,
    pub(crate) verdict: Verdict,
}

/// What the measurement says of a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Reached,
    Missed,
    NotMeasured,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Missed => "**missed**",
            Self::NotMeasured => "not measured",
        }
    }
}

const HAPROXY: [Contender; 4] = [
    Contender::Haproxy { threads: 1, splice: Splice::No },
    Contender::Haproxy { threads: 2, splice: Splice::No },
    Contender::Haproxy { threads: 1, splice: Splice::Auto },
    Contender::Haproxy { threads: 2, splice: Splice::Auto },
];
const PGBOUNCER: [Contender; 1] = [Contender::Pgbouncer(Pooling::Session)];
const FLOOR: [Contender; 1] = [Contender::Floor { engine: Engine::Uring, threads: 1 }];
const FLOORS: [Contender; 4] = [
    Contender::Floor { engine: Engine::Epoll, threads: 1 },
    Contender::Floor { engine: Engine::Epoll, threads: 2 },
    Contender::Floor { engine: Engine::Uring, threads: 1 },
    Contender::Floor { engine: Engine::Uring, threads: 2 },
];

/// What is ours: what the proxy chooses by itself where it may choose.
const OURS: [Contender; 2] = [
    Contender::Dugong { build: Build::Current, mode: Mode::Session, engine: Some(Engine::Uring) },
    Contender::Dugong { build: Build::Current, mode: Mode::Session, engine: None },
];
const OURS_BY_EPOLL: [Contender; 1] =
    [Contender::Dugong { build: Build::Current, mode: Mode::Session, engine: Some(Engine::Epoll) }];

/// Every goal, in the order in which they were set.
pub(crate) fn judge(results: &Results) -> Vec<Goal> {
    let mut goals = Vec::new();
    for workload in ["select-8", "select-32"] {
        let what = |of: &str| format!("processor time of {workload} ÷ {of}");
        goals.push(cheaper(results, workload, what("HAProxy"), &HAPROXY, 0.75));
        goals.push(cheaper(results, workload, what("PgBouncer"), &PGBOUNCER, 0.80));
        goals.push(cheaper(results, workload, what("the io_uring floor"), &FLOOR, 1.05));
    }
    goals.extend(["select-1", "select-8", "select-32", "select-256"].map(|of| faster(results, of)));
    goals.push(tail_latency(results));
    for workload in ["copy-out", "copy-out-narrow"] {
        let what = format!("processor time of {workload} ÷ HAProxy");
        goals.push(cheaper(results, workload, what, &HAPROXY, 0.5));
    }
    goals.push(memory(results, Towards::InClear, 1024.0));
    goals.push(memory(results, Towards::Tls, 12.0 * 1024.0));
    let what = "processor time of connect-8 ÷ HAProxy".to_owned();
    goals.push(cheaper(results, "connect-8", what, &HAPROXY, 0.7));
    for (contenders, name, most) in
        [(&OURS_BY_EPOLL[..], "epoll", 4.2), (&OURS[..1], "io_uring", 1.0)]
    {
        let of = |workload: &str| {
            let mut calls = results.calls.iter();
            let found = calls
                .find(|calls| calls.workload == workload && contenders.contains(&calls.contender));
            found.map(|calls| Spread { least: calls.all, median: calls.all, most: calls.all })
        };
        let what = format!("system calls per query of select-32, {name}");
        goals.push(Goal::at_most(what, of("select-32"), most));
    }
    goals.extend(failover(results));
    goals
}

/// What a crowd felt; without a proxy, too, which is where the clients' own part ends.
fn failover(results: &Results) -> impl Iterator<Item = Goal> {
    let of = |contenders: &'static [Contender]| {
        results.crowds.iter().filter(move |crowd| contenders.contains(&crowd.contender))
    };
    let (ours, direct) = (of(&OURS), of(&[Contender::Direct]));
    let clients = ours.clone().next().map_or(5000, |crowd| crowd.clients);
    let figures = |crowd: &Crowd| [crowd.told, crowd.moved, crowd.read_during];
    let goals = [
        ("are told by", 1000.0),
        ("are at the new primary by", 1000.0),
        ("let the longest read take", 50.0),
    ];
    goals.into_iter().enumerate().map(move |(index, (what, most))| {
        let millis = |crowd: &Crowd| figures(crowd)[index].as_secs_f64() * 1e3;
        let what = format!("a failover: {clients} clients {what}, ms");
        let floor = Spread::of(direct.clone().map(millis));
        Goal::at_most(what, Spread::of(ours.clone().map(millis)), most).beside(floor)
    })
}

impl Goal {
    fn at_most(what: String, measured: Option<Spread>, most: f64) -> Self {
        let verdict = verdict(measured, |median| median <= most);
        Self::new(what, format!("at most {most:.2}"), words(measured), verdict)
    }

    fn at_least(what: String, measured: Option<Spread>, least: f64) -> Self {
        let verdict = verdict(measured, |median| median >= least);
        Self::new(what, format!("at least {least:.2}"), words(measured), verdict)
    }

    fn new(what: String, wanted: String, measured: String, verdict: Verdict) -> Self {
        Self { what, wanted, measured, floor: String::new(), verdict }
    }

    /// With the figure of a floor.
    fn beside(self, floor: Option<Spread>) -> Self {
        Self { floor: words(floor), ..self }
    }
}

fn verdict(measured: Option<Spread>, reached: impl Fn(f64) -> bool) -> Verdict {
    match measured {
        None => Verdict::NotMeasured,
        Some(spread) if reached(spread.median) => Verdict::Reached,
        Some(_) => Verdict::Missed,
    }
}

fn words(measured: Option<Spread>) -> String {
    measured.map_or_else(String::new, |Spread { least, median, most }| {
        format!("{median:.2} ({least:.2} to {most:.2})")
    })
}

fn cheaper(
    results: &Results,
    workload: &'static str,
    what: String,
    others: &[Contender],
    most: f64,
) -> Goal {
    let ratio = |who: &[Contender]| {
        compare(results, workload, [who, others], Better::Lower, |one| one.processor_us)
    };
    Goal::at_most(what, ratio(&OURS), most).beside(ratio(&FLOORS))
}

/// Beside the peer that comes nearest, or is furthest ahead.
fn faster(results: &Results, workload: &'static str) -> Goal {
    let ratio = |who: &[Contender], peer| {
        compare(results, workload, [who, &[peer]], Better::Higher, |one| Some(one.rate))
    };
    let peers = [&HAPROXY[..], &PGBOUNCER].concat();
    let ours = peers.into_iter().filter_map(|peer| Some((peer, ratio(&OURS, peer)?)));
    let nearest = ours.min_by(|(_, one), (_, other)| one.median.total_cmp(&other.median));
    let what = format!("throughput of {workload} ÷ the best peer");
    let mut goal = Goal::at_least(what, nearest.map(|(_, ratio)| ratio), 1.0);
    if let Some((peer, _)) = nearest {
        goal.measured = format!("{}, {peer}", goal.measured);
        goal = goal.beside(ratio(&FLOORS, peer));
    }
    goal
}

/// Which way round a figure is good.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    Lower,
    Higher,
}

/// The best of the first, over the best of the others in the same round.
fn compare(
    results: &Results,
    workload: &str,
    [ours, others]: [&[Contender]; 2],
    better: Better,
    figure: impl Fn(&Measured) -> Option<f64>,
) -> Option<Spread> {
    let of_round = |round: usize, who: &[Contender]| {
        let samples = results.samples.iter().filter(move |sample| {
            sample.workload == workload && sample.round == round && who.contains(&sample.contender)
        });
        let figures = samples.filter_map(|sample| figure(&sample.measured));
        match better {
            Better::Lower => figures.min_by(f64::total_cmp),
            Better::Higher => figures.max_by(f64::total_cmp),
        }
    };
    let rounds = results.samples.iter().map(|sample| sample.round).max()? + 1;
    Spread::of(
        (0..rounds).filter_map(|round| Some(of_round(round, ours)? / of_round(round, others)?)),
    )
}

/// The workload in which ours is furthest above HAProxy.
fn tail_latency(results: &Results) -> Goal {
    let mut workloads: Vec<_> = results.samples.iter().map(|sample| sample.workload).collect();
    workloads.dedup();
    let mut worst: Option<(&str, Spread)> = None;
    let p99 = |one: &Measured| one.latency.map(|latency| latency.p99);
    for workload in workloads {
        let ratio = compare(results, workload, [&OURS, &HAPROXY], Better::Lower, p99);
        if let Some(ratio) = ratio
            && worst.is_none_or(|(_, worst)| ratio.median > worst.median)
        {
            worst = Some((workload, ratio));
        }
    }
    let what = "p99 latency ÷ HAProxy's, the worst workload".to_owned();
    let mut goal = Goal::at_most(what, worst.map(|(_, ratio)| ratio), 1.0);
    if let Some((workload, _)) = worst {
        goal.measured = format!("{} in {workload}", goal.measured);
        goal = goal.beside(compare(results, workload, [&FLOORS, &HAPROXY], Better::Lower, p99));
    }
    goal
}

/// Of the largest crowd.
fn memory(results: &Results, towards: Towards, most: f64) -> Goal {
    let ours = results
        .idle
        .iter()
        .filter(|idle| OURS.contains(&idle.contender) && idle.towards_clients == towards);
    let largest = ours.max_by_key(|idle| idle.connections);
    let bytes =
        largest.map(|idle| Spread { least: idle.bytes, median: idle.bytes, most: idle.bytes });
    let count = largest.map_or(10_000, |idle| idle.connections);
    let what = format!("resident bytes per idle connection, {}, at {count}", towards.name());
    let measured = bytes.map_or_else(String::new, |bytes| format!("{:.0}", bytes.median));
    let verdict = verdict(bytes, |median| median <= most);
    Goal::new(what, format!("at most {most:.0}"), measured, verdict)
}
