//! The operator gives up the data of a standby: it is copied anew, whatever dies meanwhile.

use std::fs;
use std::process::{Output, Stdio};

use dugong_tests::{Cluster, Instance, Writer, eventually, kill};
use dugong_topology::Role;

use crate::{SOON, answered, nothing_is_lost, words};

/// `dugong reinit …`, with what is typed when it asks.
fn reinit(cluster: &Cluster, arguments: &[&str], typed: &str) -> Output {
    answered(cluster, "reinit", arguments, typed)
}

/// How many data directories are kept.
fn kept(instance: &Instance) -> usize {
    let dir = instance.data().with_file_name("diverged");
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[tokio::test]
async fn an_asyncs_data_is_given_up_and_copied_anew_and_nobody_elses() {
    let cluster = Cluster::begin_with(&["--set", "repair.keep_diverged=2"]);
    cluster.whole().await;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    let [primary, sync, last] =
        [Role::Primary, Role::Sync, Role::Async].map(|role| cluster.with_role(role));
    let file = last.unchanged_file();
    let last_id = last.id.to_string();
    for (id, next_step) in [
        (primary.id.as_str(), "hand its office over first"),
        (sync.id.as_str(), "run `dugong switchover` twice"),
        ("pg-9", "no instance pg-9"),
    ] {
        let refused = reinit(&cluster, &[id, "--yes"], "");
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(words(&refused).contains(next_step), "{}", words(&refused));
    }
    for (arguments, typed, why) in [
        (&[last_id.as_str()][..], "yes\n", "not confirmed"),
        (&[&last_id, "--from", &last_id, "--yes"], "", "copied from itself"),
        (&[&last_id, "--from", "pg-9", "--yes"], "", "choose another one"),
    ] {
        let refused = reinit(&cluster, arguments, typed);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(words(&refused).contains(why), "{}", words(&refused));
    }
    assert_eq!(last.unchanged_file(), file, "nothing has changed");

    let output = reinit(&cluster, &[&last_id], &format!("{last_id}\n"));
    println!("{}", words(&output));
    assert!(output.status.success(), "{output:?}");
    let second = last.unchanged_file();
    assert_ne!(second, file, "it was copied");
    assert_eq!(kept(&last), 1, "the old data is kept");

    let from = ["--from", primary.id.as_str(), "--yes"];
    let output = reinit(&cluster, &[&[last_id.as_str()][..], &from].concat(), "");
    println!("{}", words(&output));
    assert!(output.status.success(), "{output:?}");
    assert_ne!(last.unchanged_file(), second, "it was copied again");
    assert_eq!(kept(&last), 2, "as `dugong up` was told");
    cluster.whole().await;
    writer.goes_on(20, SOON).await;
    assert_eq!(cluster.with_role(Role::Sync).id, sync.id, "nobody else has noticed");
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn a_controller_that_dies_meanwhile_does_not_take_the_word_along() {
    let cluster = Cluster::start().await;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    let last = cluster.with_role(Role::Async);
    let file = last.unchanged_file();
    let mut command = cluster.command("reinit");
    let silent = command.args([last.id.as_str(), "--yes"]).stdout(Stdio::null());
    let mut child = silent.stderr(Stdio::null()).spawn().expect("dugong can be started");
    eventually("the data is given up", SOON, async || {
        let mark = last.data().join("dugong.given-up.json");
        if mark.exists() { Ok(()) } else { Err("it is as it was".to_owned()) }
    })
    .await;
    kill(last.controller().expect("the controller runs"));
    // Whatever it has seen of that: the word counts.
    let _ = child.kill();
    child.wait().expect("a child can be waited for");
    eventually("it has another copy", SOON, async || match last.unchanged_file() {
        now if now.is_some() && now != file => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .await;
    cluster.whole().await;
    writer.goes_on(20, SOON).await;
    nothing_is_lost(writer).await;
}
