//! The results as Markdown tables, on the screen and in the file.

use std::fmt::Write as _;

use crate::proxies::calls::Calls;
use crate::proxies::crowd::Crowd;
use crate::proxies::idle::Idle;
use crate::proxies::results::{Row, Spread};
use crate::proxies::workloads::Workload;

/// The table of one workload.
pub(crate) fn of_workload(workload: &Workload, rows: &[Row]) -> String {
    let unit = workload.unit.name();
    let head = [
        String::new(),
        format!("{} per second", workload.unit.plural()),
        "throughput ÷ direct".to_owned(),
        format!("processor µs per {unit}"),
        "p50 ÷ direct".to_owned(),
        "p99 ÷ direct".to_owned(),
        "p99 ms".to_owned(),
    ];
    let cells = rows.iter().map(|row| {
        [
            row.contender.to_string(),
            format!("{:.0}", row.rate.median),
            ratio(row.throughput),
            wide(row.processor_us),
            ratio(row.p50),
            ratio(row.p99),
            row.p99_us.map_or_else(String::new, |spread| format!("{:.2}", spread.median / 1e3)),
        ]
    });
    let lines: Vec<_> = std::iter::once(head).chain(cells).collect();
    format!("### {}: {}\n\n{}", workload.name, workload.what, table(&lines))
}

/// Memory and descriptors; none of none.
pub(crate) fn of_idle(idle: &[Idle]) -> Option<String> {
    let head = ["", "clients", "connections", "resident bytes each", "descriptors each"];
    let lines = idle.iter().map(|idle| {
        [
            idle.contender.to_string(),
            idle.towards_clients.name().to_owned(),
            idle.connections.to_string(),
            format!("{:.0}", idle.bytes),
            format!("{:.2}", idle.descriptors),
        ]
    });
    let lines: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(lines).collect();
    (lines.len() > 1).then(|| table(&lines))
}

/// System calls, the most frequent ones by name; none of none.
pub(crate) fn of_calls(calls: &[Calls]) -> Option<String> {
    let head = ["", "workload", "calls per query", "of them"].map(str::to_owned);
    let lines = calls.iter().map(|calls| {
        let frequent = calls.by_name.iter().filter(|(_, count)| *count >= 0.02);
        let names: Vec<_> = frequent.map(|(name, count)| format!("{name} {count:.2}")).collect();
        let all = format!("{:.2}", calls.all);
        [calls.contender.to_string(), calls.workload.to_owned(), all, names.join(", ")]
    });
    let lines: Vec<_> = std::iter::once(head).chain(lines).collect();
    (lines.len() > 1).then(|| table(&lines))
}

/// Failovers; none of none.
pub(crate) fn of_crowds(crowds: &[Crowd]) -> Option<String> {
    let head = [
        "",
        "clients",
        "told by, ms",
        "without a word",
        "at the new primary by, ms",
        "longest read before, ms",
        "longest read during, ms",
    ];
    let millis = |time: std::time::Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
    let lines = crowds.iter().map(|crowd| {
        [
            crowd.contender.to_string(),
            crowd.clients.to_string(),
            millis(crowd.told),
            crowd.cut_off.to_string(),
            millis(crowd.moved),
            millis(crowd.read_before),
            millis(crowd.read_during),
        ]
    });
    let lines: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(lines).collect();
    (lines.len() > 1).then(|| table(&lines))
}

/// A median, with how far apart the measurements are.
fn ratio(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |Spread { least, median, most }| {
        format!("{median:.2} ({least:.2} to {most:.2})")
    })
}

fn wide(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |Spread { least, median, most }| {
        format!("{median:.1} ({least:.1} to {most:.1})")
    })
}

/// Lines of cells, the first of them the head, as a table whose columns are in line.
pub(crate) fn table<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default().max(3)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(widths) {
            // Writing to a string does not fail.
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.into_iter().enumerate() {
                let end = if column == 0 { "-" } else { ":" };
                let _ = write!(text, "| {}{end} ", "-".repeat(width - 1));
            }
            text.push_str("|\n");
        }
    }
    text
}
