//! Real processes from end to end: `dugong up`, real PostgreSQL, real clients, real kills.
//!
//! | file | what it tells |
//! | --- | --- |
//! | `archive` | pgBackRest: archiving, a failover, and a restore to a point in time |
//! | `bootstrap` | from nothing to writes; the command's answers |
//! | `clocks` | the wall clock jumps |
//! | `crash_loop` | a server dies at each of its starts |
//! | `credentials` | passwords are exchanged under writers, whatever dies meanwhile |
//! | `damage` | a page is damaged on the disk |
//! | `disks` | a disk is full, and has room again |
//! | `exhausted` | clients take every connection |
//! | `failover` | each process is lost, and comes back |
//! | `lag` | a standby shows nothing of what it receives |
//! | `migration` | a single PostgreSQL is followed, and becomes a cluster |
//! | `one_node` | a primary without a sync, and its way to a cluster |
//! | `pauses` | single processes of a server are stopped, and go on |
//! | `promote` | the operator's override |
//! | `repair` | a former primary's data is rewound |
//! | `resume` | an orderly end, and everything again; data that is destroyed |
//! | `settings` | the cluster's settings, and restarts one after the other |
//! | `slots` | logical replication, and slots of users |
//! | `storage` | a disk hangs, and goes on |
//! | `store` | the store is away for a while |
//! | `switchover` | another primary as asked for, or rolled back; frozen |
//! | `versions` | PostgreSQL 13 to 18 |
//! | `warden` | a controller that is paused, or restarted in order |
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "what a test measured is worth reading")]

mod archive;
mod bootstrap;
mod clocks;
mod crash_loop;
mod credentials;
mod damage;
mod disks;
mod exhausted;
mod failover;
mod lag;
mod migration;
mod one_node;
mod pauses;
mod promote;
mod reinit;
mod repair;
mod resume;
mod settings;
mod slots;
mod storage;
mod store;
mod switchover;
mod versions;
mod warden;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Output, Stdio};
use std::time::Duration;

use dugong_tests::{Cluster, Instance, Report, Writer, eventually, kill};
use dugong_topology::{Address, Topology};

/// Within this time writes go on after anything that these tests do, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// A whole cluster, and a writer that has begun.
async fn written_to() -> (Cluster, Writer) {
    let cluster = Cluster::start().await;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    writer.goes_on(20, SOON).await;
    (cluster, writer)
}

/// An operator's command, with what is typed when it asks.
fn answered(cluster: &Cluster, subcommand: &str, arguments: &[&str], typed: &str) -> Output {
    let mut command = cluster.command(subcommand);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("dugong can be started");
    let mut stdin = child.stdin.take().expect("it has a standard input");
    // Who is refused before it is asked does not listen.
    let _ = stdin.write_all(typed.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("a child can be waited for")
}

/// What an instance's controller measures.
async fn metrics(cluster: &Cluster, instance: &Instance) -> String {
    eventually("its controller answers", SOON, async || {
        let topology = cluster.topology()?;
        let member = topology.members().find(|(_, member)| member.id == instance.id);
        let address = member.and_then(|(_, member)| member.http.as_ref());
        page_of(address.ok_or("it has no controller")?).map_err(|error| error.to_string())
    })
    .await
}

fn page_of(address: &Address) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address.host.as_str(), address.port))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// Whether an instance says this about itself, for people.
fn says(topology: &Topology, instance: &Instance, what: &str) -> bool {
    let mut members = topology.members();
    let member = members.find(|(_, member)| member.id == instance.id);
    member.and_then(|(_, member)| member.note.as_deref()).is_some_and(|note| note.contains(what))
}

/// All that a command has said.
fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The connection string of one instance's own server, past the proxy.
fn direct_dsn(cluster: &Cluster, instance: &Instance) -> String {
    let topology = cluster.topology().expect("the cluster shows its topology");
    let (_, member) =
        topology.members().find(|(_, member)| member.id == instance.id).expect("it is a member");
    let address = member.address.clone().expect("it has said where it listens");
    let dsn = cluster.dsn(&[]);
    let rest =
        dsn.split(' ').filter(|part| !part.starts_with("host=") && !part.starts_with("port="));
    let rest = rest.collect::<Vec<_>>().join(" ");
    format!("host={} port={} {rest}", address.host, address.port)
}

/// A connection string of its superuser, who is trusted on the server's socket.
fn superuser_dsn(cluster: &Cluster, instance: &Instance) -> String {
    let member = cluster.topology().expect("the cluster shows its topology");
    let member = member.members().find(|(_, member)| member.id == instance.id);
    let address = member.and_then(|(_, member)| member.address.clone()).expect("it listens");
    let run = instance.data().with_file_name("run");
    format!("host={} port={} user=postgres dbname=app", run.display(), address.port)
}

/// SIGKILL to the controller and to the server.
fn kill_all_of(instance: &Instance) {
    let postmaster = instance.postmaster().expect("the server runs");
    kill(instance.controller().expect("the controller runs"));
    kill(postmaster);
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
