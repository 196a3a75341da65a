//! The process: starting, stopping, and what it says about mistakes.

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::eventually::{eventually, soon};
use crate::fake_server::{FakeServer, STARTUP, WELCOME, client_that_sends, expect, rest};
use crate::postgres::{client, shared_pair};
use crate::proxy::{self, Proxy};

#[tokio::test]
async fn a_mistake_is_one_sentence_and_an_exit_status() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.toml");
    std::fs::write(&file, "hold_timout = \"1s\"\n").unwrap();
    let file = file.to_str().unwrap();
    #[rustfmt::skip]
    let cases: [(&[&str], i32, &str); 6] = [
        (&[],                                               2, "nothing to connect to"),
        (&["--primary", "a:1", "--controller", "http://a:1"], 2, "exclude each other"),
        (&["--config", file],                               2, "did you mean \"hold_timeout\"?"),
        (&["--config", "/nowhere/proxy.toml"],              2, "cannot read the configuration file"),
        (&["--primary", "a:1", "--hold-timeout", "30"],     2, "is no duration"),
        (&["--primary", "a:1", "--write-port", &port],     1, "in use by another program"),
    ];
    for (flags, status, sentence) in cases {
        let (code, _, stderr) = proxy::run(flags);
        assert_eq!(code, Some(status), "{flags:?}: {stderr}");
        assert!(stderr.contains(sentence), "{flags:?}: {stderr}");
    }
    drop(taken);
}

#[test]
fn a_configuration_can_be_checked_and_help_shows_an_example() {
    let (code, stdout, _) = proxy::run(&["--primary", "a:1", "--check-config"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "the configuration is good\n"));
    let (code, stdout, _) = proxy::run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("dugong-proxy --controller http://"), "{stdout}");
}

#[test]
fn the_environment_is_over_the_file_and_the_example_is_a_good_file() {
    let (code, example, _) = proxy::run(&["--print-example"]);
    assert_eq!(code, Some(0));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.toml");
    std::fs::write(&file, example).unwrap();
    let check = ["--check-config", "--config", file.to_str().unwrap()];
    #[rustfmt::skip]
    let cases = [
        (None,                                         0, ""),
        (Some(("DUGONG_PROXY_WRITE_PORT", "7432")),    0, ""),
        (Some(("DUGONG_PROXY_WRITE_PORT", "6433")),    2, "write_port and read_port are both 6433"),
        (Some(("DUGONG_PROXY_WRITE_PRT", "7432")),     2, "did you mean DUGONG_PROXY_WRITE_PORT?"),
        (Some(("DUGONG_PROXY_CONFIG", "/nowhere")),    0, ""), // the flag wins
    ];
    for (variable, status, sentence) in cases {
        let (code, _, stderr) = proxy::run_with(&check, variable);
        assert_eq!(code, Some(status), "{variable:?}: {stderr}");
        assert!(stderr.contains(sentence), "{variable:?}: {stderr}");
        assert!(stderr.lines().count() <= 1, "{variable:?}: {stderr}");
    }
    let nowhere = Some(("DUGONG_PROXY_CONFIG", "/nowhere"));
    let (code, _, stderr) = proxy::run_with(&["--check-config"], nowhere);
    assert_eq!(code, Some(2), "{stderr}");
}

#[tokio::test]
async fn without_files_accepting_pauses_and_goes_on_when_there_are_some() {
    let proxy = Proxy::start(&["--primary", "127.0.0.1:1"]);
    proxy.limit_files(32);
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(client_that_sends(proxy.write_port, b"").await);
    }
    eventually("a pause is logged", || async {
        proxy.log().contains("accepting on the write port pauses")
    })
    .await;
    clients.clear();
    let mut late = client_that_sends(proxy.write_port, b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(rest(&mut late).await.contains("this is an HTTP request"));
    let pauses = "dugong_proxy_accept_pauses_total{listener=\"write\"}";
    assert!(proxy.metric(pauses).await >= Some(1.0));
    let lines = proxy.log().matches("accepting on the write port pauses").count();
    assert_eq!(lines, 1, "however often it paused");
}

#[tokio::test]
async fn a_standby_is_not_blamed_for_what_the_proxy_lacks() {
    let standby = FakeServer::start().await;
    let address = format!("127.0.0.1:{}", standby.port);
    let proxy = Proxy::start(&["--primary", "127.0.0.1:1", "--replica", &address]);
    let files = proxy.files().len();
    let idle = client_that_sends(proxy.read_port, b"").await;
    eventually("it is accepted", || async { proxy.files().len() == files + 1 }).await;
    // One for the next client, and none for its server.
    proxy.leave_files(1);
    let mut client = client_that_sends(proxy.read_port, STARTUP).await;
    let lacks = format!(
        "the proxy cannot reach replica-1 at {address}: no connection (Too many open files (os error 24)): \
         raise the limit of open files"
    );
    eventually("it says what it lacks", || async { proxy.log().contains(&lacks) }).await;
    drop(idle);
    let (mut server, _) = standby.accept().await;
    server.write_all(WELCOME).await.unwrap();
    expect(&mut client, WELCOME).await;
    assert!(!proxy.log().contains("left out"), "{}", proxy.log());
}

#[tokio::test]
async fn a_client_that_waits_in_vain_is_told_what_the_proxy_lacks() {
    let proxy = Proxy::start(&["--primary", "127.0.0.1:1", "--hold-timeout", "300ms"]);
    proxy.leave_files(1);
    let mut client = client_that_sends(proxy.write_port, STARTUP).await;
    let told = rest(&mut client).await;
    assert!(told.contains("the proxy cannot reach primary at 127.0.0.1:1"), "{told}");
    assert!(told.contains("Too many open files"), "{told}");
}

#[tokio::test]
async fn everybody_is_told_when_the_proxy_stops() {
    let pair = shared_pair();
    let address = format!("127.0.0.1:{}", pair.first.port);
    let mut proxy = Proxy::start(&["--primary", &address]);
    let (_idle, connection) = client(proxy.write_port).connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut greeting = client_that_sends(proxy.write_port, b"").await;
    // A connection that was not accepted yet is refused, not told.
    proxy.has_open("write", 2).await;

    proxy.signal(Signal::TERM);
    let error = soon("the session ends", connection).await.unwrap().unwrap_err();
    let told = error.as_db_error().unwrap();
    assert_eq!(told.code(), &SqlState::ADMIN_SHUTDOWN);
    assert_eq!(told.message(), "the proxy is shutting down");
    assert!(rest(&mut greeting).await.contains("the proxy is shutting down"));
    assert_eq!(proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn sessions_may_go_on_while_it_drains_and_held_clients_may_not() {
    let pair = shared_pair();
    let address = format!("127.0.0.1:{}", pair.first.port);
    // No server for reads, and no fallback that answers: held.
    let flags = ["--primary", &address, "--replica", "127.0.0.1:1", "--drain-timeout", "600s"];
    let mut proxy = Proxy::start(&flags);
    let (session, connection) = client(proxy.write_port).connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut held = client_that_sends(proxy.read_port, STARTUP).await;
    proxy.has_open("read", 1).await;

    proxy.signal(Signal::TERM);
    assert!(rest(&mut held).await.contains("the proxy is shutting down"));
    session.batch_execute("select 1").await.unwrap();
    drop(session);
    soon("the session ends", connection).await.unwrap().unwrap();
    assert_eq!(proxy.ended().await.code(), Some(0), "and it ends with its last session");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let pair = shared_pair();
    let address = format!("127.0.0.1:{}", pair.first.port);
    let mut proxy = Proxy::start(&["--primary", &address, "--drain-timeout", "600s"]);
    let (session, connection) = client(proxy.write_port).connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    proxy.signal(Signal::TERM);
    eventually("the first signal is seen", || async { proxy.log().contains("stopping") }).await;
    proxy.signal(Signal::INT);
    assert_eq!(proxy.ended().await.code(), Some(1));
    drop(session);
    // However that ends: the proxy said nothing any more.
    let _ = soon("the session ends", connection).await.unwrap();
}

#[test]
fn a_service_manager_is_told_that_it_is_ready_lives_and_ends() {
    let manager = dugong_tests::ServiceManager::start();
    let mut command = proxy::command();
    command.args(["--write-port", "0", "--read-port", "0", "--http-port", "0"]);
    command.args(["--primary", "127.0.0.1:1"]);
    manager.manages(&mut command);
    let mut process = command.spawn().unwrap();
    let before = manager.hears("READY=1");
    assert!(before.iter().all(|said| said == "WATCHDOG=1"), "{before:?}");
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");
    dugong_tests::terminate(process.id());
    manager.hears("STOPPING=1");
    assert!(process.wait().unwrap().success());
}
