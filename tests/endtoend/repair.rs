//! A deposed primary comes back by itself, by a rewind of what it has, and at whatever moment that
//! is interrupted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use dugong_tests::{
    Cluster, DiskKind, Instance, Pid, Writer, connect, eventually, kill, pause, resume,
};
use dugong_topology::{InstanceId, Role, Topology};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{SOON, direct_dsn, metrics, nothing_is_lost, written_to};

/// How data may be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repair {
    ByRewind,
    /// There is no `pg_rewind`.
    ByCopy,
}

/// PostgreSQL's programs without `pg_rewind`.
fn without_rewind(cluster: &Cluster) -> TempDir {
    let postmaster = cluster.with_role(Role::Primary).postmaster().expect("the server runs");
    let program = fs::read_link(format!("/proc/{postmaster}/exe")).expect("it can be looked at");
    let readable = fs::Permissions::from_mode(0o755);
    let folder = tempfile::Builder::new().prefix("dugong-").permissions(readable).tempdir();
    let folder = folder.expect("a temporary directory can be made");
    let programs = fs::read_dir(program.parent().expect("it is in a directory"));
    for program in programs.expect("it can be read").flatten() {
        if program.file_name() != "pg_rewind" {
            let link = folder.path().join(program.file_name());
            symlink(program.path(), link).expect("a link can be made");
        }
    }
    folder
}

/// A whole cluster of that kind, where one instance has a small disk, if that is wanted. Its
/// programs are there as long as the directory is.
async fn begun(repair: Repair, disk: Option<Role>) -> (TempDir, Cluster) {
    let mut cluster = Cluster::start().await;
    let programs = without_rewind(&cluster);
    let small = disk.map(|role| cluster.with_role(role).id);
    cluster.stop().await;
    if let Some(id) = small {
        cluster.give_disk(&id, DiskKind::Small);
    }
    let path = programs.path().to_str().expect("it is text");
    match repair {
        Repair::ByRewind => cluster.resume(),
        Repair::ByCopy => cluster.resume_with(&["--pg-bin", path]),
    }
    cluster.whole().await;
    (programs, cluster)
}

/// The primary writes rows that nobody else gets, and dies.
async fn forked(cluster: &Cluster) -> Instance {
    let (primary, sync) = (cluster.with_role(Role::Primary), cluster.with_role(Role::Sync));
    let client = connect(&direct_dsn(cluster, &primary)).await.expect("the primary lets it in");
    let table = client.batch_execute("create table if not exists forked (n int)").await;
    table.expect("a table can be made");
    let receiver = sync.server_process("walreceiver").expect("the sync follows");
    pause(receiver);
    // More than waits in sockets on the way to the sync.
    let rows = "set synchronous_commit = local; \
                insert into forked select -g from generate_series(1, 250000) g";
    client.batch_execute(rows).await.expect("nobody is waited for");
    let sender = primary.server_process("walsender").expect("it has a sync");
    kill(primary.postmaster().expect("the server runs"));
    // By itself it may go on sending for a moment, once there is room again.
    kill(sender);
    resume(receiver);
    primary
}

/// How often data was made anew by a rewind, as a prefix, and by a copy, since the instance's
/// controller began.
async fn made(cluster: &Cluster, instance: &Instance) -> [u64; 3] {
    let page = metrics(cluster, instance).await;
    ["rewind", "prefix", "copy"].map(|how| {
        let line = format!("dugong_data_made_total{{how=\"{how}\"}} ");
        page.lines().find_map(|text| text.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
    })
}

/// What only the former primary had is nowhere, and it shows what everybody has.
pub(crate) async fn has_what_the_others_have(cluster: &Cluster, instance: &Instance) {
    let rows = async |of: &Instance| {
        let client = connect(&direct_dsn(cluster, of)).await.map_err(|error| error.to_string())?;
        let rows = client.query_one("select count(*) from forked", &[]).await;
        rows.map(|row| row.get::<_, i64>(0)).map_err(|error| error.to_string())
    };
    eventually("it has what the others have", SOON, async || {
        let (here, there) = (rows(instance).await?, rows(&cluster.with_role(Role::Primary)).await?);
        if here == there { Ok(()) } else { Err(format!("{here} rows, where others have {there}")) }
    })
    .await;
}

#[tokio::test]
async fn a_primary_with_writes_of_its_own_comes_back_by_a_rewind() {
    let (cluster, writer) = written_to().await;
    comes_back_by_a_rewind(&cluster, &writer).await;
    nothing_is_lost(writer).await;
}

/// A primary with writes of its own dies; the instance that it was, once it is the last async.
pub(crate) async fn comes_back_by_a_rewind(cluster: &Cluster, writer: &Writer) -> Instance {
    let file = cluster.with_role(Role::Primary).unchanged_file();
    let former = forked(cluster).await;
    writer.goes_on(50, SOON).await;
    cluster.whole().await;
    assert_eq!(cluster.with_role(Role::Async).id, former.id, "it is back");
    assert_eq!(former.unchanged_file(), file, "it was not copied");
    assert_eq!(made(cluster, &former).await, [1, 0, 0], "it was rewound");
    has_what_the_others_have(cluster, &former).await;
    former
}

/// What of a former primary is killed while its data is made anew.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Controller,
    /// `pg_rewind`, or `pg_basebackup`.
    Helper,
    /// The server that replays, or a copy's source.
    Server,
    /// As if the power had gone.
    Everything,
}

impl Victim {
    /// Its processes, just now.
    fn of(self, instance: &Instance) -> Vec<Pid> {
        let name = instance.data().parent().expect("it is in a directory").display().to_string();
        let here = processes().filter(|(_, command)| command.contains(&name));
        let is_it = |command: &str| match self {
            Self::Controller => command.contains("dugong-controller"),
            Self::Helper => command.contains("pg_rewind") || command.contains("pg_basebackup"),
            Self::Server => command.contains("bin/postgres -D"),
            Self::Everything => true,
        };
        here.filter(|(_, command)| is_it(command)).map(|(pid, _)| pid).collect()
    }
}

/// Every process with its command line.
fn processes() -> impl Iterator<Item = (Pid, String)> {
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&command).replace('\0', " ")))
    })
}

/// The next number of a series that a seed begins (splitmix64).
fn draw(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) % below
}

/// Kills the victim at five moments of as many repairs; each ends well.
async fn killed_at_random_points(victim: Victim, repair: Repair) {
    let drawn = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs());
    let told = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let mut seed = told.unwrap_or(drawn);
    println!("SEED={seed}");
    let (_programs, cluster) = begun(repair, None).await;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    let mut lasted = 1_500;
    for _ in 0..5 {
        writer.goes_on(20, SOON).await;
        let former = forked(&cluster).await;
        // Until then what it wrote may still become everybody's.
        let taken_over =
            |now: &Topology| now.primary.as_ref().is_some_and(|primary| primary.id != former.id);
        cluster.until("somebody has taken over", taken_over).await;
        let begun = Instant::now();
        let moment = Duration::from_millis(draw(&mut seed, lasted));
        eventually("the moment has come", SOON, async || {
            if begun.elapsed() < moment { Err(format!("{:?}", begun.elapsed())) } else { Ok(()) }
        })
        .await;
        let killed = victim.of(&former);
        killed.iter().copied().for_each(kill);
        println!("{:?} after {moment:?}: {victim:?} {killed:?}", former.id);
        writer.goes_on(20, SOON).await;
        cluster.whole().await;
        lasted =
            u64::try_from(begun.elapsed().as_millis()).map_or(1_500, |ms| ms.clamp(500, 5_000));
        // What was whole when it was killed may show so for a moment more.
        has_what_the_others_have(&cluster, &former).await;
        cluster.whole().await;
        let ways = made(&cluster, &former).await;
        println!("rewound, a prefix, copied since its controller began: {ways:?}");
        assert!(repair == Repair::ByRewind || ways[0] == 0, "{ways:?}");
    }
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn its_controller_is_killed_during_a_rewind() {
    killed_at_random_points(Victim::Controller, Repair::ByRewind).await;
}

#[tokio::test]
async fn pg_rewind_is_killed() {
    killed_at_random_points(Victim::Helper, Repair::ByRewind).await;
}

#[tokio::test]
async fn its_server_is_killed_during_a_rewind() {
    killed_at_random_points(Victim::Server, Repair::ByRewind).await;
}

#[tokio::test]
async fn everything_of_it_is_killed_during_a_rewind() {
    killed_at_random_points(Victim::Everything, Repair::ByRewind).await;
}

#[tokio::test]
async fn everything_of_it_is_killed_during_a_copy() {
    killed_at_random_points(Victim::Everything, Repair::ByCopy).await;
}

#[tokio::test]
async fn pg_basebackup_is_killed() {
    killed_at_random_points(Victim::Helper, Repair::ByCopy).await;
}

/// What `instance` says about itself, for people.
fn note<'a>(topology: &'a Topology, instance: &InstanceId) -> &'a str {
    let mut members = topology.members();
    let member = members.find(|(_, member)| member.id == *instance);
    member.and_then(|(_, member)| member.note.as_deref()).unwrap_or_default()
}

#[tokio::test]
async fn a_copy_that_finds_no_room_is_not_begun_and_says_how_much_it_needs() {
    if !DiskKind::Small.is_allowed() {
        return;
    }
    let (_programs, cluster) = begun(Repair::ByCopy, Some(Role::Primary)).await;
    let id = cluster.with_role(Role::Primary).id;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    // Enough for what forks, and too little for a copy.
    cluster.disk().fill_up_to(110);
    let former = forked(&cluster).await;
    assert_eq!(former.id, id, "it has the role again");
    let says = |now: &Topology| {
        let note = note(now, &id);
        note.contains("a copy of") && note.contains(": make room there")
    };
    let topology = cluster.until("it says that there is no room", says).await;
    println!("{}", note(&topology, &id));
    assert_eq!(former.making(), 1, "what it has is untouched");
    writer.goes_on(20, SOON).await;
    cluster.disk().free();
    cluster.whole().await;
    assert_eq!(former.making(), 2);
    has_what_the_others_have(&cluster, &former).await;
    nothing_is_lost(writer).await;
}
