//! The store is away for longer than a session lives, while everything else runs.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use dugong_tests::{Cluster, Pid, Writer, connect, eventually, kill};
use dugong_topology::Role;
use rusqlite::Connection;
use tokio::time::Instant;

use crate::{SOON, kill_all_of, nothing_is_lost, written_to};

/// Twice as long as a session lives without being renewed, as `dugong up` has it.
const AWAY: Duration = Duration::from_secs(6);

/// The next write comes within this time: by far, but for a machine with other things to do.
const UNNOTICED: Duration = Duration::from_secs(5);

/// Another program that holds the store's lock, so that nobody can write. Dropping it lets go.
struct Locked(Connection);

impl Locked {
    fn hold(cluster: &Cluster) -> Self {
        let connection = Connection::open(cluster.store()).expect("it is a database");
        connection.busy_timeout(Duration::from_secs(5)).expect("it takes a number");
        connection.execute_batch("BEGIN EXCLUSIVE").expect("it gets the lock");
        Self(connection)
    }

    fn release(self) {
        self.0.execute_batch("ROLLBACK").expect("it had the lock");
    }
}

/// The store's files, moved into another directory.
pub(crate) struct Hidden(Vec<(PathBuf, PathBuf)>);

impl Hidden {
    pub(crate) fn hide(cluster: &Cluster) -> Self {
        let (store, aside) = (cluster.store(), cluster.dir().join("aside"));
        fs::create_dir(&aside).expect("there is room beside the store");
        let name = store.file_name().and_then(OsStr::to_str).expect("it has a name").to_owned();
        let files = ["", "-wal", "-shm"].map(|end| format!("{name}{end}"));
        let moves = files.map(|file| (store.with_file_name(&file), aside.join(&file)));
        let moves: Vec<_> = moves.into_iter().filter(|(from, _)| from.exists()).collect();
        for (from, to) in &moves {
            fs::rename(from, to).expect("it can be moved");
        }
        Self(moves)
    }

    /// The database last: whoever finds it finds what belongs to it.
    pub(crate) fn put_back(self) {
        for (from, to) in self.0.iter().rev() {
            fs::rename(to, from).expect("it can be moved back");
        }
    }
}

fn processes(cluster: &Cluster) -> Vec<(Option<Pid>, Option<Pid>)> {
    let topology = cluster.topology().expect("the proxy has a topology");
    let members = topology.members().map(|(_, member)| cluster.instance(&member.id));
    members.map(|instance| (instance.controller(), instance.postmaster())).collect()
}

/// Clients read and write while the store is away, and nothing changes its role, then or later.
async fn unnoticed<F>(take_away: impl Fn(&Cluster) -> F, bring_back: impl Fn(F)) {
    let (cluster, writer) = written_to().await;
    let before = cluster.whole().await;
    let running = processes(&cluster);
    let away = take_away(&cluster);
    writer.goes_on_for(AWAY, UNNOTICED).await;
    let client = connect(&cluster.dsn(&[])).await.expect("a new client is let in");
    let row = client.query_one("select count(*) from numbers", &[]).await.expect("it reads");
    assert!(row.get::<_, i64>(0) > 20, "it reads what was written");
    bring_back(away);
    writer.goes_on_for(AWAY, UNNOTICED).await;
    let after = cluster.whole().await;
    assert_eq!(after.generation, before.generation, "nobody took over");
    assert_eq!(processes(&cluster), running, "nobody was started again");
    let report = nothing_is_lost(writer).await;
    assert_eq!(report.errors, Vec::<String>::new());
    is_of_use(&cluster).await;
}

/// The store takes what it is told: an async that dies is seen to go and to come back.
async fn is_of_use(cluster: &Cluster) {
    kill(cluster.with_role(Role::Async).postmaster().expect("its server runs"));
    cluster.until("its loss shows", |topology| !topology.standbys().all(|m| m.healthy)).await;
    cluster.whole().await;
}

#[tokio::test]
async fn locked_by_another_program() {
    unnoticed(Locked::hold, Locked::release).await;
}

#[tokio::test]
async fn moved_away_and_put_back() {
    unnoticed(Hidden::hide, Hidden::put_back).await;
}

/// Neither lease is left: nobody may serve, and nobody may take over either.
async fn without_its_sync<F>(take_away: impl Fn(&Cluster) -> F, bring_back: impl Fn(F)) {
    let (cluster, writer) = written_to().await;
    cluster.whole().await;
    let primary = cluster.with_role(Role::Primary);
    let sync = cluster.with_role(Role::Sync);
    let server = primary.postmaster().expect("its server runs");
    let away = take_away(&cluster);
    writer.goes_on_for(AWAY, UNNOTICED).await;
    kill_all_of(&sync);
    eventually("the primary's server is ended", SOON, async || {
        if primary.postmaster() == Some(server) { Err("it runs".to_owned()) } else { Ok(()) }
    })
    .await;
    let fenced = writer.acknowledged();
    eventually_stays(&writer, fenced).await;
    bring_back(away);
    writer.goes_on(50, SOON).await;
    cluster.whole().await;
    nothing_is_lost(writer).await;
}

/// For as long as a session lives nobody acknowledges anything.
async fn eventually_stays(writer: &Writer, acknowledged: u64) {
    let begun = Instant::now();
    eventually("some time passes", SOON, async || {
        assert_eq!(writer.acknowledged(), acknowledged, "nobody may take a write");
        if begun.elapsed() > AWAY / 2 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn locked_while_the_sync_is_lost() {
    without_its_sync(Locked::hold, Locked::release).await;
}

#[tokio::test]
async fn moved_away_while_the_sync_is_lost() {
    without_its_sync(Hidden::hide, Hidden::put_back).await;
}
