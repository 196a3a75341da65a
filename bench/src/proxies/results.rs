//! All measurements of a run, and what they come to: medians and spreads, as ratios to `direct`
//! of the same round.

use std::collections::BTreeMap;

use crate::proxies::calls::Calls;
use crate::proxies::contenders::Contender;
use crate::proxies::crowd::Crowd;
use crate::proxies::idle::Idle;
use crate::proxies::measure::Measured;
use crate::proxies::workloads::Workload;

/// One measurement, and where it belongs.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) workload: &'static str,
    pub(crate) contender: Contender,
    pub(crate) round: usize,
    pub(crate) measured: Measured,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) samples: Vec<Sample>,
    pub(crate) idle: Vec<Idle>,
    pub(crate) calls: Vec<Calls>,
    pub(crate) crowds: Vec<Crowd>,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
}

/// What the samples of one contender in one workload come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) contender: Contender,
    /// Units per second.
    pub(crate) rate: Spread,
    /// Of the rate to that of `direct` in the same round.
    pub(crate) throughput: Option<Spread>,
    /// Microseconds of processor time per unit.
    pub(crate) processor_us: Option<Spread>,
    /// In microseconds.
    pub(crate) p99_us: Option<Spread>,
    /// To those of `direct` in the same round.
    pub(crate) p50: Option<Spread>,
    pub(crate) p99: Option<Spread>,
}

/// The middle of several measurements, and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// None of none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Some(Self { least, median, most })
    }
}

impl Results {
    /// What was measured; a failure is a result, too, and no reason to measure nothing else.
    pub(crate) fn or_failure<T>(&mut self, outcome: anyhow::Result<T>) -> Option<T> {
        outcome
            .map_err(|error| {
                eprintln!("\n{error:#}");
                self.failures.push(format!("{error:#}"));
            })
            .ok()
    }

    /// One row for each contender that was measured, in the order in which they are given.
    pub(crate) fn rows(&self, workload: &Workload, field: &[Contender]) -> Vec<Row> {
        let of_workload = self.samples.iter().filter(|sample| sample.workload == workload.name);
        let samples: Vec<_> = of_workload.collect();
        let direct: BTreeMap<_, _> = samples
            .iter()
            .filter(|sample| sample.contender == Contender::Direct)
            .map(|sample| (sample.round, sample.measured))
            .collect();
        field.iter().filter_map(|contender| row(*contender, &samples, &direct)).collect()
    }
}

fn row(
    contender: Contender,
    samples: &[&Sample],
    direct: &BTreeMap<usize, Measured>,
) -> Option<Row> {
    let own: Vec<_> = samples.iter().filter(|sample| sample.contender == contender).collect();
    let spread = |figure: &dyn Fn(&Measured) -> Option<f64>| {
        Spread::of(own.iter().filter_map(|sample| figure(&sample.measured)))
    };
    let ratio = |figure: &dyn Fn(&Measured) -> Option<f64>| {
        Spread::of(own.iter().filter_map(|sample| {
            let of_direct = figure(direct.get(&sample.round)?)?;
            Some(figure(&sample.measured)? / of_direct)
        }))
    };
    Some(Row {
        contender,
        rate: spread(&|measured| Some(measured.rate))?,
        throughput: ratio(&|measured| Some(measured.rate)),
        processor_us: spread(&|measured| measured.processor_us),
        p99_us: spread(&|measured| measured.latency.map(|latency| latency.p99)),
        p50: ratio(&|measured| measured.latency.map(|latency| latency.p50)),
        p99: ratio(&|measured| measured.latency.map(|latency| latency.p99)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxies::workloads::ALL;
    use crate::relay::Engine;

    #[test]
    fn a_median_is_in_the_middle() {
        #[rustfmt::skip]
        let cases = [
            (vec![],               None),
            (vec![3.0],            Some((3.0, 3.0, 3.0))),
            (vec![3.0, 1.0],       Some((1.0, 2.0, 3.0))),
            (vec![9.0, 1.0, 2.0],  Some((1.0, 2.0, 9.0))),
        ];
        for (values, expected) in cases {
            let spread = Spread::of(values.clone());
            let found = spread.map(|spread| (spread.least, spread.median, spread.most));
            assert_eq!(found, expected, "{values:?}");
        }
    }

    #[test]
    fn a_ratio_is_to_the_same_round() {
        let floor = Contender::Floor { engine: Engine::Epoll, threads: 1 };
        let mut results = Results::default();
        // The machine is twice as fast in the second round; the floor has half of it in both.
        for (contender, round, rate) in [
            (Contender::Direct, 0, 100.0),
            (floor, 0, 50.0),
            (Contender::Direct, 1, 200.0),
            (floor, 1, 100.0),
        ] {
            let measured = Measured { rate, processor_us: None, latency: None };
            results.samples.push(Sample { workload: ALL[0].name, contender, round, measured });
        }
        let rows = results.rows(&ALL[0], &[Contender::Direct, floor]);
        let ratios: Vec<_> = rows.iter().filter_map(|row| row.throughput).collect();
        let of_direct = Spread { least: 1.0, median: 1.0, most: 1.0 };
        assert_eq!(ratios, [of_direct, Spread { least: 0.5, median: 0.5, most: 0.5 }]);
    }
}
