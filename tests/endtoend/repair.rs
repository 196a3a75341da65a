//! A deposed primary comes back by itself, by a rewind of what it has, and at whatever moment that
//! is interrupted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;

use dugong_tests::{Cluster, Instance, connect, eventually, kill, pause, resume};
use dugong_topology::{Address, Role};

use crate::{SOON, direct_dsn, nothing_is_lost, written_to};

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
                insert into forked select -g from generate_series(1, 500000) g";
    client.batch_execute(rows).await.expect("nobody is waited for");
    kill(primary.postmaster().expect("the server runs"));
    resume(receiver);
    primary
}

/// A file that nobody changes: a copy of the data has another one.
fn unchanged_file(instance: &Instance) -> u64 {
    std::fs::metadata(instance.data().join("base/1/2608")).expect("it has data").ino()
}

/// How often data was made anew in that way since the instance's controller began.
fn made(cluster: &Cluster, instance: &Instance, how: &str) -> u64 {
    let topology = cluster.topology().expect("the cluster shows its topology");
    let (_, member) =
        topology.members().find(|(_, member)| member.id == instance.id).expect("it is a member");
    let address = member.http.clone().expect("it has a controller");
    let page = metrics(&address).expect("its controller answers");
    let line = format!("dugong_data_made_total{{how=\"{how}\"}} ");
    page.lines().find_map(|text| text.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
}

fn metrics(address: &Address) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address.host.as_str(), address.port))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// What only the former primary had is nowhere, and it shows what everybody has.
async fn has_what_the_others_have(cluster: &Cluster, instance: &Instance) {
    let client = connect(&direct_dsn(cluster, instance)).await.expect("it lets readers in");
    eventually("it has what the others have", SOON, async || {
        let rows = client.query_one("select count(*) from forked where n < 0", &[]).await;
        let rows: i64 = rows.map_err(|error| error.to_string())?.get(0);
        if rows == 0 { Ok(()) } else { Err(format!("{rows} rows that were never acknowledged")) }
    })
    .await;
}

#[tokio::test]
async fn a_primary_with_writes_of_its_own_comes_back_by_a_rewind() {
    let (cluster, writer) = written_to().await;
    let file = unchanged_file(&cluster.with_role(Role::Primary));
    let former = forked(&cluster).await;
    writer.goes_on(50, SOON).await;
    cluster.whole().await;
    assert_eq!(cluster.with_role(Role::Async).id, former.id, "it is back");
    assert_eq!(unchanged_file(&former), file, "it was not copied");
    assert_eq!((made(&cluster, &former, "rewind"), made(&cluster, &former, "copy")), (1, 0));
    has_what_the_others_have(&cluster, &former).await;
    nothing_is_lost(writer).await;
}
