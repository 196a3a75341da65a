//! The machine's wall clock jumps, as libfaketime shows it to every process of a cluster. No time of
//! the protocol is taken from it; PostgreSQL's own timeouts are, so that standbys connect anew.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dugong_tests::{Cluster, Writer, connect, eventually};
use dugong_topology::Role;

use crate::{SOON, nothing_is_lost};

/// As long as PostgreSQL's own timeouts may need to see the jump, and a session would to lapse.
const A_WHILE: Duration = Duration::from_secs(8);

/// A connection of a standby is ended, and made again.
const NOTICED: Duration = Duration::from_secs(15);

fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("there is a /usr/lib").flatten();
    let places = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    places.into_iter().find(|place| place.exists()).expect("libfaketime is installed")
}

/// A cluster whose wall clock is ahead by what the file says.
fn begin_by(clock: &Path) -> Cluster {
    let variables: [(&'static str, OsString); 5] = [
        ("LD_PRELOAD", library().into()),
        ("FAKETIME_TIMESTAMP_FILE", clock.into()),
        ("FAKETIME_CACHE_DURATION", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("NO_FAKE_STAT", "1".into()),
    ];
    Cluster::begin_with_variables(variables.into())
}

/// How far the servers' clock is ahead of this process's, in seconds.
async fn ahead(dsn: &str) -> Result<f64, String> {
    let since = std::time::UNIX_EPOCH.elapsed().map_err(|error| error.to_string())?;
    let client = connect(dsn).await?;
    let theirs = client.query_one("select extract(epoch from clock_timestamp())::float8", &[]);
    let theirs: f64 = theirs.await.map_err(|error| error.to_string())?.get(0);
    Ok(theirs - since.as_secs_f64())
}

#[tokio::test]
async fn that_jump_by_an_hour_cost_no_write_and_no_primary() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let clock = directory.path().join("clock");
    // Read by every user that a process of the cluster runs as; renamed, so that it is always whole.
    let jump = |seconds: i32| {
        let next = clock.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n")).expect("the clock's file can be written");
        fs::rename(&next, &clock).expect("the clock's file can be exchanged");
    };
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), open).expect("the directory can be opened");
    jump(0);
    let mut cluster = begin_by(&clock);
    cluster.whole().await;
    let before = cluster.with_role(Role::Primary).id;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    writer.goes_on(20, SOON).await;

    let dsn = cluster.dsn(&[]);
    for seconds in [3600, -3600] {
        jump(seconds);
        eventually("the clock has jumped", SOON, async || match ahead(&dsn).await? {
            found if (found - f64::from(seconds)).abs() < 60.0 => Ok(()),
            found => Err(format!("it is ahead by {found} s")),
        })
        .await;
        writer.goes_on_for(A_WHILE, NOTICED).await;
    }
    cluster.whole().await;
    assert_eq!(cluster.with_role(Role::Primary).id, before);
    let report = nothing_is_lost(writer).await;
    assert_eq!(report.errors, Vec::<String>::new());
    cluster.stop().await;
    forget();
}

/// libfaketime leaves what its processes have shared, under their pids.
fn forget() {
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid =
            name.strip_prefix("faketime_shm_").or_else(|| name.strip_prefix("sem.faketime_sem_"));
        if let Some(pid) = pid.filter(|pid| !Path::new("/proc").join(pid).exists()) {
            fs::remove_file(entry.path()).unwrap_or_else(|error| println!("{pid}: {error}"));
        }
    }
}
