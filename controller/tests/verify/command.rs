//! `dugong verify` as one types it: what it prints, and its exit status.

use std::process::{Child, Command, Output, Stdio};

use dugong_controller::operator::init::Authority;
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
    let plain = format!("{} sslmode=require", server.dsn());
    let nobody = server.dsn().replace("user=postgres", "user=nobody_here");
    let cases: [(&[&str], &str); 8] = [
        (&[], "DSN"),
        (&["nonsense"], "the write address"),
        (&["host=127.0.0.1 sslmode=verify-full"], "the write address: sslmode=verify-full needs"),
        (&["host=127.0.0.1 sslmode=allow"], "sslmode=allow is not supported"),
        (&["host=127.0.0.1", "--read=host=127.0.0.1 sslcrl=/x"], "the read address: sslcrl is not"),
        (&[&plain], "server does not support TLS"),
        (&["host=127.0.0.1", "--clients=0"], "--clients"),
        (&[&nobody], "nobody_here"),
    ];
    for (arguments, word) in cases {
        let (status, out, err) = ended(start(arguments)).await;
        assert_eq!(status, Some(2), "{arguments:?}: {out}{err}");
        assert!(err.contains(word), "{arguments:?}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_tls_the_server_is_verified_as_libpq_would() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours", "another"].map(|name| Authority::new(name).unwrap());
    let signed = ours.sign(&["127.0.0.1"]).unwrap();
    let mut server = Server::start(&[]).await;
    server.encrypt(&signed.certificate, &signed.key).await;
    let write = |file: &str, text: &str| {
        let path = folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (root, stranger) =
        (write("ca.crt", &ours.certificate()), write("other.crt", &other.certificate()));
    let named = server.dsn().replace("host=127.0.0.1", "host=localhost");
    let dsn = server.dsn();
    #[rustfmt::skip]
    let cases = [
        (format!("{dsn} sslmode=require"),                               Some(0), "acquitted"),
        (format!("{dsn} sslmode=verify-full sslrootcert={root}"),        Some(0), "acquitted"),
        (format!("{named} sslmode=verify-ca sslrootcert={root}"),        Some(0), "acquitted"),
        (format!("{named} sslmode=verify-full sslrootcert={root}"),      Some(2), "its certificate is for another host: it is reached as localhost"),
        (format!("{dsn} sslmode=verify-ca sslrootcert={stranger}"),      Some(2), "signed by no authority of sslrootcert"),
        (format!("{dsn} sslmode=require sslrootcert={stranger}"),        Some(2), "signed by no authority of sslrootcert"),
        (format!("{dsn} sslmode=verify-ca sslrootcert=/nowhere"),        Some(2), "sslrootcert: /nowhere cannot be read"),
    ];
    for (dsn, expected, word) in cases {
        let arguments = [&dsn, "--read", &dsn, "--seconds=1", "--clients=1", "--json"];
        let (status, out, err) = ended(start(&arguments)).await;
        assert_eq!(status, expected, "{dsn}: {out}{err}");
        assert!(out.contains(word) || err.contains(word), "{dsn}: {out}{err}");
    }
}
