//! A page of a table is damaged on the disk of one instance, as a disk does it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dugong_tests::{Cluster, Instance, connect, eventually};
use dugong_topology::Role;
use tokio_postgres::Client;

use crate::{SOON, direct_dsn, metrics, nothing_is_lost, says, superuser_dsn, words, written_to};

const ROWS: i64 = 2000;

/// A table that nobody writes any more, hint bits and all; the path of its file.
async fn a_table(cluster: &Cluster) -> PathBuf {
    let client = connect(&cluster.dsn(&[])).await.expect("the primary takes writes");
    let make = format!(
        "create table precious with (autovacuum_enabled = off) as \
         select n, repeat('x', 100) as words from generate_series(1, {ROWS}) n"
    );
    client.batch_execute(&make).await.expect("a table can be made");
    client.batch_execute("vacuum (freeze) precious").await.expect("it can be vacuumed");
    let row = client.query_one("select pg_relation_filepath('precious')", &[]).await;
    row.expect("it has a file").get::<_, String>(0).into()
}

async fn count(dsn: &str) -> Result<i64, String> {
    let client = connect(dsn).await?;
    let row = client.query_one("select count(*) from precious where words like 'x%'", &[]).await;
    row.map(|row| row.get(0)).map_err(|error| match error.as_db_error() {
        Some(answer) => answer.message().to_owned(),
        None => error.to_string(),
    })
}

/// Damages one page. The server was started again before, so that it has the page only on its disk.
fn damage(instance: &Instance, file: &Path) {
    let file = OpenOptions::new().write(true).open(instance.data().join(file));
    let file = file.expect("the table's file is there");
    file.write_all_at(b"not what was written here", 3 * 8192 + 4000).expect("it can be written");
    file.sync_all().expect("it can be synced");
}

/// Restarts the instance's server in order, so that it has nothing of the table in memory: a standby
/// replays again from its last checkpoint, so that this must be younger than the table.
async fn restart(cluster: &Cluster, instance: &Instance) {
    let primary = superuser(cluster, &cluster.with_role(Role::Primary)).await;
    let end = primary.query_one("select pg_current_wal_insert_lsn()::text", &[]).await;
    let end: String = end.expect("a primary writes WAL").get(0);
    primary.batch_execute("checkpoint").await.expect("a checkpoint can be made");
    let here = superuser(cluster, instance).await;
    eventually("its checkpoint is younger than the table", SOON, async || {
        here.batch_execute("checkpoint").await.map_err(|error| error.to_string())?;
        let redo =
            "select redo_lsn::text, redo_lsn >= $1::text::pg_lsn from pg_control_checkpoint()";
        let row = here.query_one(redo, &[&end]).await.map_err(|error| error.to_string())?;
        if row.get(1) { Ok(()) } else { Err(row.get(0)) }
    })
    .await;
    let mut command = tokio::process::Command::from(cluster.command("restart"));
    command.args([instance.id.as_str(), "--primary", "in-place"]);
    let output = command.output().await.expect("dugong can be started");
    assert!(output.status.success(), "{}", words(&output));
    cluster.whole().await;
}

async fn superuser(cluster: &Cluster, instance: &Instance) -> Client {
    connect(&superuser_dsn(cluster, instance)).await.expect("its server runs")
}

async fn metric(cluster: &Cluster, instance: &Instance, name: &str) -> Option<u64> {
    let page = metrics(cluster, instance).await;
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Reads through the read address find it, wherever they go.
#[tokio::test]
async fn of_an_async_is_found_by_its_readers_and_its_data_is_copied_anew() {
    let (cluster, writer) = written_to().await;
    let file = a_table(&cluster).await;
    let last = cluster.with_role(Role::Async);
    restart(&cluster, &last).await;
    let before = last.unchanged_file();
    damage(&last, &file);

    let read = cluster.dsn(&["--read"]);
    eventually("a reader finds the damaged page", SOON, async || match count(&read).await {
        Err(why) if why.contains("invalid page") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    eventually("it has another copy", SOON, async || match last.unchanged_file() {
        now if now.is_some() && now != before => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .await;

    cluster.whole().await;
    let log = std::fs::read_to_string(last.data().with_file_name("controller.log"));
    let log = log.expect("a controller has a log");
    assert!(log.contains("pages of the data here fail their checksum (app)"), "{log}");
    assert_eq!(count(&direct_dsn(&cluster, &last)).await, Ok(ROWS));
    nothing_is_lost(writer).await;
}

/// It has what nobody else has for certain: it is never repaired, as long as it is the primary.
#[tokio::test]
async fn of_the_primary_is_told_and_repaired_only_once_it_is_an_async() {
    let (cluster, writer) = written_to().await;
    let file = a_table(&cluster).await;
    let first = cluster.with_role(Role::Primary);
    restart(&cluster, &first).await;
    let before = first.unchanged_file();
    damage(&first, &file);

    let found = count(&cluster.dsn(&[])).await;
    assert!(found.as_ref().is_err_and(|why| why.contains("invalid page")), "{found:?}");
    cluster.until("it says so", |now| says(now, &first, "this is the primary")).await;
    let status = words(&cluster.run("status", &[]));
    assert!(status.contains("pages of the data here fail their checksum (app)"), "{status}");
    assert!(status.contains("run `dugong switchover`"), "{status}");
    assert!(metric(&cluster, &first, "dugong_checksum_failures_total ").await >= Some(1));
    assert_eq!(metric(&cluster, &first, "dugong_data_damaged ").await, Some(1));
    writer.goes_on(20, SOON).await;
    assert_eq!(cluster.with_role(Role::Primary).id, first.id, "it goes on with its office");
    assert_eq!(first.unchanged_file(), before, "nothing was repaired");

    let mut command = tokio::process::Command::from(cluster.command("switchover"));
    let output = command.output().await.expect("dugong can be started");
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(count(&cluster.dsn(&[])).await, Ok(ROWS), "the others have the right page");
    eventually("it has another copy", SOON, async || match first.unchanged_file() {
        now if now.is_some() && now != before => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .await;
    cluster.whole().await;
    assert_eq!(count(&direct_dsn(&cluster, &first)).await, Ok(ROWS));
    assert_eq!(metric(&cluster, &first, "dugong_data_damaged ").await, Some(0));
    nothing_is_lost(writer).await;
}
