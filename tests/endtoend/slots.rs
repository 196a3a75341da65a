//! Logical replication, and the slots of users: what stays where it was made.

use dugong_tests::connect;
use dugong_topology::Role;

use crate::settings::done;
use crate::{SOON, nothing_is_lost, superuser_dsn, written_to};

#[tokio::test]
async fn a_logical_slot_is_told_of_and_keeps_no_former_primary_from_following() {
    let (cluster, writer) = written_to().await;
    done(&cluster, &["config", "set", "wal_level=logical"]).await;
    done(&cluster, &["restart", "--pending"]).await;
    let primary = cluster.with_role(Role::Primary);
    let client = connect(&superuser_dsn(&cluster, &primary)).await.expect("the primary answers");
    let made = "select pg_create_logical_replication_slot('events', 'test_decoding')";
    client.batch_execute(made).await.expect("wal_level is logical");
    let decoded = "select count(*) from pg_logical_slot_peek_changes('events', null, null)";
    writer.goes_on(20, SOON).await;
    let row = client.query_one(decoded, &[]).await.expect("changes are decoded");
    assert!(row.get::<_, i64>(0) > 0, "nothing was decoded");
    let words = "the replication slots events are on this instance only";
    let said = done(&cluster, &["status"]).await;
    assert!(said.contains(&format!("{}: {words}", primary.id)), "{said}");

    done(&cluster, &["switchover"]).await;

    cluster.whole().await;
    let former = cluster.with_role(Role::Async);
    assert_eq!(former.id, primary.id);
    let said = done(&cluster, &["status"]).await;
    assert!(said.contains(&format!("{}: {words}", primary.id)), "it is where it was: {said}");
    nothing_is_lost(writer).await;
}
