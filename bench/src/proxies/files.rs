//! What is left of a run: `results.json`, `README.md` with the tables, and pictures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use crate::proxies::contenders::{Contender, SETTINGS};
use crate::proxies::goals::{self, Goal};
use crate::proxies::machine::Machine;
use crate::proxies::plots::{self, Panel};
use crate::proxies::postgres;
use crate::proxies::results::{Results, Row, Spread};
use crate::proxies::tables;
use crate::proxies::workloads::{Unit, Workload};

/// A run that is over.
pub(crate) struct Run<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) workloads: &'a [&'static Workload],
    pub(crate) field: &'a [Contender],
    pub(crate) results: &'a Results,
    /// How it was started, in words.
    pub(crate) how: String,
}

impl Run<'_> {
    /// Goals and every table, as Markdown.
    pub(crate) fn tables(&self) -> String {
        let mut text =
            format!("## Goals\n\n{}\n## Workloads\n\n", goals(&goals::judge(self.results)));
        for workload in self.workloads {
            let rows = self.results.rows(workload, self.field);
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}", tables::of_workload(workload, &rows));
        }
        for (title, table) in [
            ("Idle connections", tables::of_idle(&self.results.idle)),
            ("System calls per query", tables::of_calls(&self.results.calls)),
            ("A failover with a crowd", tables::of_crowds(&self.results.crowds)),
        ] {
            if let Some(table) = table {
                let _ = writeln!(text, "## {title}\n\n{table}");
            }
        }
        for failure in &self.results.failures {
            let _ = writeln!(text, "Not measured: {failure}\n");
        }
        text
    }

    /// Writes everything into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let put = |name: &str, content: &str| {
            let file = folder.join(name);
            fs::write(&file, content).with_context(|| file.display().to_string())
        };
        put("results.json", &serde_json::to_string_pretty(&self.json())?)?;
        put("README.md", &self.page())?;
        for (name, title, figure) in PICTURES {
            put(&format!("{name}.svg"), &self.picture(title, *figure))?;
        }
        Ok(())
    }

    fn page(&self) -> String {
        let Machine { date, name, facts } = self.machine;
        let mut text = format!(
            "# Proxies side by side, {date}, {name}\n\n\
             How to read it: [bench/README.md](../../README.md). Run as `{}`.\n\n",
            self.how
        );
        let head = [String::new(), "of the run".to_owned()];
        let facts = facts.iter().map(|(name, value)| [(*name).to_owned(), value.clone()]);
        let lines: Vec<_> = std::iter::once(head).chain(facts).collect();
        let _ = writeln!(text, "{}", tables::table(&lines));
        for (name, title, _) in PICTURES {
            let _ = writeln!(text, "![{title}]({name}.svg)\n");
        }
        text += &self.tables();
        text += "## Settings\n";
        for (who, settings) in [("PostgreSQL", postgres::SETTINGS)].iter().chain(SETTINGS) {
            let _ = writeln!(text, "\n{who}:\n\n```text\n{}\n```", settings.trim_end());
        }
        text
    }

    fn picture(&self, title: &str, figure: fn(&Row) -> Option<Spread>) -> String {
        let panels = self.workloads.iter().map(|workload| {
            let rows = self.results.rows(workload, self.field);
            let bars = rows.iter().filter_map(|row| Some((row.contender, figure(row)?)));
            let unit = match workload.unit {
                Unit::Query => String::new(),
                unit @ (Unit::Transaction | Unit::Connection | Unit::Megabyte) => {
                    format!(" (per {})", unit.name())
                }
            };
            Panel { title: format!("{}{unit}", workload.name), bars: bars.collect() }
        });
        let panels: Vec<_> = panels.filter(|panel| !panel.bars.is_empty()).collect();
        plots::picture(title, &panels)
    }

    fn json(&self) -> Value {
        let facts = self.machine.facts.iter().map(|(name, value)| (*name, value.as_str()));
        let samples = self.results.samples.iter().map(|sample| {
            json!({
                "workload": sample.workload,
                "contender": sample.contender.to_string(),
                "round": sample.round,
                "rate": sample.measured.rate,
                "processor_us": sample.measured.processor_us,
                "p50_us": sample.measured.latency.map(|latency| latency.p50),
                "p99_us": sample.measured.latency.map(|latency| latency.p99),
            })
        });
        let idle = self.results.idle.iter().map(|idle| {
            json!({
                "contender": idle.contender.to_string(),
                "clients": idle.towards_clients.name(),
                "connections": idle.connections,
                "bytes": idle.bytes,
                "descriptors": idle.descriptors,
            })
        });
        let calls = self.results.calls.iter().map(|calls| {
            json!({
                "workload": calls.workload,
                "contender": calls.contender.to_string(),
                "calls": calls.all,
                "by_name": calls.by_name.iter().cloned().collect::<BTreeMap<_, _>>(),
            })
        });
        let crowds = self.results.crowds.iter().map(|crowd| {
            json!({
                "contender": crowd.contender.to_string(),
                "clients": crowd.clients,
                "told_s": crowd.told.as_secs_f64(),
                "cut_off": crowd.cut_off,
                "moved_s": crowd.moved.as_secs_f64(),
                "read_before_s": crowd.read_before.as_secs_f64(),
                "read_during_s": crowd.read_during.as_secs_f64(),
            })
        });
        json!({
            "date": self.machine.date,
            "machine": facts.map(|(name, value)| (name.to_owned(), json!(value)))
                .collect::<serde_json::Map<_, _>>(),
            "how": self.how,
            "samples": samples.collect::<Vec<_>>(),
            "idle": idle.collect::<Vec<_>>(),
            "calls": calls.collect::<Vec<_>>(),
            "failures": self.results.failures,
            "failovers": crowds.collect::<Vec<_>>(),
        })
    }
}

type Figure = fn(&Row) -> Option<Spread>;

/// The name of the file, what the bars are, and how they are taken from a row.
const PICTURES: &[(&str, &str, Figure)] = &[
    ("processor", "Processor time of the proxy per unit, in µs: less is better", |row| {
        row.processor_us
    }),
    ("throughput", "Throughput ÷ direct: more is better", |row| row.throughput),
    ("latency", "p99 latency ÷ direct: less is better", |row| row.p99),
];

fn goals(goals: &[Goal]) -> String {
    let head = ["", "goal", "measured", "the best floor's", ""].map(str::to_owned);
    let lines = goals.iter().map(|goal| {
        let (what, wanted) = (goal.what.clone(), goal.wanted.clone());
        let (measured, floor) = (goal.measured.clone(), goal.floor.clone());
        [what, wanted, measured, floor, goal.verdict.word().to_owned()]
    });
    tables::table(&std::iter::once(head).chain(lines).collect::<Vec<_>>())
}
