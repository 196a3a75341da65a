//! A standby that receives everything and shows nothing of it.

use dugong_tests::{Cluster, connect, eventually, pause, resume};
use dugong_topology::{InstanceId, Role, Topology};

use crate::{SOON, nothing_is_lost, written_to};

/// More than the proxy lets a standby be behind (`max_lag`).
const BEHIND: u64 = 16 << 20;

/// Readers in a row: led to two standbys in turn, all of them would not find the same one by chance.
const READERS: usize = 12;

/// Who has answered the reader that now comes.
async fn answers(read: &str) -> Result<InstanceId, String> {
    let client = connect(read).await?;
    let row = client.query_one("select current_setting('cluster_name')", &[]).await;
    let name: String = row.map_err(|error| error.to_string())?.get(0);
    name.parse().map_err(|_| format!("{name} is no instance"))
}

/// Who has answered some of them in a row.
async fn answer(read: &str) -> Result<Vec<InstanceId>, String> {
    let mut who = Vec::new();
    for _ in 0..READERS {
        who.push(answers(read).await?);
    }
    Ok(who)
}

fn lag(topology: &Topology, of: &InstanceId) -> Option<u64> {
    topology.members().find(|(_, member)| member.id == *of)?.1.lag_bytes
}

/// Commits do not wait for it, and nobody reads old rows there.
#[tokio::test]
async fn of_an_async_keeps_readers_away_until_it_has_caught_up() {
    let (cluster, writer) = written_to().await;
    let before = cluster.whole().await;
    let (sync, last) = (cluster.with_role(Role::Sync), cluster.with_role(Role::Async));
    let startup = last.server_process("startup").expect("a standby has a startup process");
    pause(startup);
    more_than_a_little(&cluster).await;
    cluster.until("the async is behind", |now| lag(now, &last.id) > Some(BEHIND)).await;

    let read = cluster.dsn(&["--read"]);
    eventually("every reader is led to the sync", SOON, async || {
        let who = answer(&read).await?;
        who.iter().all(|id| *id == sync.id).then_some(()).ok_or_else(|| format!("{who:?}"))
    })
    .await;

    resume(startup);
    eventually("readers are led to it again", SOON, async || {
        let who = answer(&read).await?;
        who.contains(&last.id).then_some(()).ok_or_else(|| format!("{who:?}"))
    })
    .await;
    let after = cluster.whole().await;
    assert_eq!(after.generation, before.generation, "commits waited for somebody else");
    nothing_is_lost(writer).await;
}

/// Writes some 40 MB of WAL.
async fn more_than_a_little(cluster: &Cluster) {
    let client = connect(&cluster.dsn(&[])).await.expect("writes are accepted");
    let done = client
        .batch_execute("create table much as select n, n as m from generate_series(1, 600000) n");
    done.await.expect("a table can be filled");
}
