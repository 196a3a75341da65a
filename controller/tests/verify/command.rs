//! `dugong verify` as one types it: what it prints, and its exit status.

use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::eventually::eventually;
use crate::server::Server;

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dugong"));
    command.arg("verify").args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it said, and its status, when it has ended by itself.
async fn ended(mut child: Child) -> (Option<i32>, String, String) {
    eventually("it ends", async || child.try_wait().unwrap().is_some()).await;
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquittal_is_status_0_and_can_be_read_by_a_program() {
    let server = Server::start(&[]).await;
    let (status, out, err) = ended(start(&[
        &server.dsn(),
        "--read",
        &server.dsn(),
        "--seconds=2",
        "--clients=2",
        "--seed=5",
        "--json",
    ]))
    .await;
    assert_eq!(status, Some(0), "{out}{err}");
    let verdict: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(verdict["ruling"], "acquitted");
    assert_eq!(verdict["charges"].as_array().unwrap().len(), 0);
    assert!(verdict["writes"]["acknowledged"].as_u64().unwrap() > 0);
    assert!(verdict["staleness"]["maximum"]["ms"].is_number());
    assert!(err.contains("seed 5"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_it_early_and_a_conviction_is_status_1() {
    let server = Server::start(&[]).await;
    let child = start(&[&server.dsn(), "--seconds=600", "--keep"]);
    let table = "select coalesce((select format('%I.%I', schemaname, tablename) from pg_tables \
                 where schemaname = 'dugong_verify' and tablename like 'rows%'), '')";
    eventually("the table is there", async || !server.ask(table).await.is_empty()).await;
    let table = server.ask(table).await;
    let count = format!("select count(*) > 20 from {table}");
    eventually("rows are there", async || server.ask(&count).await == "t").await;
    // More than 20 rows of 4 writers: one of them at least was told that its first one is there.
    server.ask(&format!("delete from {table} where number = 1")).await;
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let (status, out, err) = ended(child).await;
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(out.contains("CONVICTED") && out.contains("lost"), "{out}");
    assert!(err.contains("lost"), "{err}");
    assert_eq!(server.ask(&format!("select count(*) > 0 from {table}")).await, "t", "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_status_2() {
    let server = Server::start(&[]).await;
    let nobody = server.dsn().replace("user=postgres", "user=nobody_here");
    let cases: [(&[&str], &str); 6] = [
        (&[], "DSN"),
        (&["nonsense"], "the write address"),
        (&["host=127.0.0.1 sslmode=verify-full"], "sslmode"),
        (&["host=127.0.0.1 sslmode=require"], "sslmode"),
        (&["host=127.0.0.1", "--clients=0"], "--clients"),
        (&[&nobody], "nobody_here"),
    ];
    for (arguments, word) in cases {
        let (status, out, err) = ended(start(arguments)).await;
        assert_eq!(status, Some(2), "{arguments:?}: {out}{err}");
        assert!(err.contains(word), "{arguments:?}: {err}");
    }
}
