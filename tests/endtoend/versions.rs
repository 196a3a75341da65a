//! PostgreSQL in other versions than the installed one: a cluster of each lives through a failover, a
//! rewind, a switchover, restarts, and a copy; one is exchanged for a later minor version.
//!
//! `.ci/versions` gets the programs. Where those of a version are missing, its test does nothing, and
//! `make test` says so.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use dugong_tests::{Cluster, Writer, connect, postgres_of_version};
use dugong_topology::Role;

use crate::repair::{comes_back_by_a_rewind, has_what_the_others_have};
use crate::settings::{all_have, done};
use crate::{SOON, nothing_is_lost};

async fn lives_through_all_of_it(major: u32) {
    let Some(cluster) = Cluster::start_on_version(major).await else {
        println!("skipped: PostgreSQL {major} is not there, .ci/versions gets it");
        return;
    };
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    let client = connect(&cluster.dsn(&[])).await.expect("the cluster accepts a connection");
    let row = client.query_one("select current_setting('server_version_num')::int / 10000", &[]);
    assert_eq!(row.await.expect("it is known").get::<_, i32>(0).cast_unsigned(), major);

    let former = comes_back_by_a_rewind(&cluster, &writer).await;

    let (primary, making) = (cluster.with_role(Role::Primary), former.making());
    done(&cluster, &["switchover"]).await;
    writer.goes_on(20, SOON).await;
    cluster.whole().await;
    let last = cluster.with_role(Role::Async);
    assert_eq!(last.id, primary.id, "the former primary follows");
    assert_eq!(former.making(), making, "nobody needed a copy");

    let said = done(&cluster, &["config", "set", "max_connections=250", "work_mem=7MB"]).await;
    assert!(said.contains("dugong restart --pending"), "{said}");
    done(&cluster, &["restart", "--pending"]).await;
    cluster.whole().await;
    all_have(&cluster, "max_connections", "250").await;
    all_have(&cluster, "work_mem", "7MB").await;

    let last = cluster.with_role(Role::Async);
    let file = last.unchanged_file();
    done(&cluster, &["reinit", last.id.as_str(), "--yes"]).await;
    assert_ne!(last.unchanged_file(), file, "it was copied");
    cluster.whole().await;
    has_what_the_others_have(&cluster, &last).await;
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn postgresql_13() {
    lives_through_all_of_it(13).await;
}

#[tokio::test]
async fn postgresql_14() {
    lives_through_all_of_it(14).await;
}

#[tokio::test]
async fn postgresql_16() {
    lives_through_all_of_it(16).await;
}

#[tokio::test]
async fn postgresql_17() {
    lives_through_all_of_it(17).await;
}

#[tokio::test]
async fn postgresql_18() {
    lives_through_all_of_it(18).await;
}

/// What a package manager does: the programs are exchanged under servers that run.
#[tokio::test]
async fn a_minor_version_is_taken_up_by_restarts_one_after_the_other() {
    let folder = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .expect("a temporary directory can be made");
    let programs = |version| postgres_of_version(version, folder.path());
    let (Some(older), Some(newer)) = (programs("16.2"), programs("16")) else {
        println!("skipped: two versions of PostgreSQL 16 are not there, .ci/versions gets them");
        return;
    };
    let installed = folder.path().join("bin");
    symlink(&older, &installed).expect("a link can be made");
    let cluster = Cluster::start_on_programs(&installed).await;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    writer.goes_on(20, SOON).await;
    all_have(&cluster, "server_version", &version(&older)).await;

    let next = folder.path().join("next");
    symlink(&newer, &next).expect("a link can be made");
    std::fs::rename(&next, &installed).expect("the programs can be exchanged");
    done(&cluster, &["restart", "--all"]).await;
    cluster.whole().await;
    assert_ne!(version(&newer), version(&older));
    all_have(&cluster, "server_version", &version(&newer)).await;
    nothing_is_lost(writer).await;
}

/// As the server itself says it.
fn version(bin: &Path) -> String {
    let said = Command::new(bin.join("postgres")).arg("--version").output();
    let said = String::from_utf8(said.expect("postgres can be started").stdout);
    let said = said.expect("its version is text");
    said.split_whitespace().last().expect("it says a version").to_owned()
}
