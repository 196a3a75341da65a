//! Real processes from end to end: `dugong up`, real PostgreSQL, real clients, real kills.
//!
//! | file | what it tells |
//! | --- | --- |
//! | `bootstrap` | from nothing to writes; the command's answers |
//! | `failover` | each process is lost, and comes back |
//! | `one_node` | a primary without a sync, and its way to a cluster |
//! | `promote` | the operator's override |
//! | `resume` | an orderly end, and everything again; data that is destroyed |
//! | `switchover` | another primary as asked for, or rolled back; frozen |
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "what a test measured is worth reading")]

mod bootstrap;
mod failover;
mod one_node;
mod promote;
mod resume;
mod switchover;

use std::time::Duration;

use dugong_tests::{Cluster, Report, Writer};

/// Within this time writes go on after anything that these tests do, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// A whole cluster, and a writer that has begun.
async fn written_to() -> (Cluster, Writer) {
    let cluster = Cluster::start().await;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    writer.goes_on(20, SOON).await;
    (cluster, writer)
}

/// Ends the writing; every acknowledged row must be there.
async fn nothing_is_lost(writer: Writer) -> Report {
    writer.goes_on(20, SOON).await;
    let report = writer.stop().await;
    assert!(report.lost.is_empty(), "acknowledged but lost: {report:?}");
    println!(
        "{} acknowledged, longest pause {:?}, errors {:?}",
        report.acknowledged, report.longest_pause, report.errors
    );
    report
}
