//! What was set out to be reached, and what was: the verdict is the measurement's, not ours.
//!
//! Ratios are taken within each round; the verdict is about their median.

use crate::proxies::contenders::{Build, Contender, Mode, Pooling, Splice};
use crate::proxies::idle::Idle;
use crate::proxies::measure::Measured;
use crate::proxies::results::{Results, Spread};
use crate::relay::Engine;

/// One figure that was set out to be reached.
pub(crate) struct Goal {
    pub(crate) what: String,
    /// At most, or at least, in words.
    pub(crate) wanted: String,
    pub(crate) measured: String,
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
    let peers = [&HAPROXY[..], &PGBOUNCER].concat();
    for workload in ["select-1", "select-8", "select-32", "select-256"] {
        let ratio = compare(results, workload, &peers, Better::Higher, |one| Some(one.rate));
        let what = format!("throughput of {workload} ÷ the best peer");
        goals.push(Goal::at_least(what, ratio, 1.0));
    }
    goals.push(tail_latency(results));
    for workload in ["copy-out", "copy-out-narrow"] {
        let what = format!("processor time of {workload} ÷ HAProxy");
        goals.push(cheaper(results, workload, what, &HAPROXY, 0.5));
    }
    goals.push(memory(results));
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
    let ours = results.crowds.iter().find(|crowd| OURS.contains(&crowd.contender));
    for (what, most, time) in [
        ("are told by, ms", 1000.0, ours.map(|crowd| crowd.told)),
        ("are at the new primary by, ms", 1000.0, ours.map(|crowd| crowd.moved)),
        ("let the longest read take, ms", 50.0, ours.map(|crowd| crowd.read_during)),
    ] {
        let millis = time.map(|time| time.as_secs_f64() * 1e3);
        let what =
            format!("a failover: {} clients {what}", ours.map_or(5000, |crowd| crowd.clients));
        goals.push(Goal::at_most(what, Spread::of(millis), most));
    }
    goals
}

impl Goal {
    fn at_most(what: String, measured: Option<Spread>, most: f64) -> Self {
        let verdict = verdict(measured, |median| median <= most);
        Self { what, wanted: format!("at most {most:.2}"), measured: words(measured), verdict }
    }

    fn at_least(what: String, measured: Option<Spread>, least: f64) -> Self {
        let verdict = verdict(measured, |median| median >= least);
        Self { what, wanted: format!("at least {least:.2}"), measured: words(measured), verdict }
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
    let ratio = compare(results, workload, others, Better::Lower, |one| one.processor_us);
    Goal::at_most(what, ratio, most)
}

/// Which way round a figure is good.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    Lower,
    Higher,
}

/// Ours, over whoever of the others was best in the same round.
fn compare(
    results: &Results,
    workload: &str,
    others: &[Contender],
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
        (0..rounds).filter_map(|round| Some(of_round(round, &OURS)? / of_round(round, others)?)),
    )
}

/// The workload in which ours is furthest above HAProxy.
fn tail_latency(results: &Results) -> Goal {
    let mut workloads: Vec<_> = results.samples.iter().map(|sample| sample.workload).collect();
    workloads.dedup();
    let mut worst: Option<(&str, Spread)> = None;
    for workload in workloads {
        let p99 = |one: &Measured| one.latency.map(|latency| latency.p99);
        let ratio = compare(results, workload, &HAPROXY, Better::Lower, p99);
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
    }
    goal
}

fn memory(results: &Results) -> Goal {
    let most = |one: &&Idle| one.connections;
    let largest =
        results.idle.iter().filter(|idle| OURS.contains(&idle.contender)).max_by_key(most);
    let bytes =
        largest.map(|idle| Spread { least: idle.bytes, median: idle.bytes, most: idle.bytes });
    let count = largest.map_or(10_000, |idle| idle.connections);
    let what = format!("resident bytes per idle connection at {count}");
    Goal {
        what,
        wanted: "at most 1024".to_owned(),
        measured: bytes.map_or_else(String::new, |bytes| format!("{:.0}", bytes.median)),
        verdict: verdict(bytes, |median| median <= 1024.0),
    }
}
