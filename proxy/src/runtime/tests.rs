//! A proxy without its process, for what cannot be brought about from outside.

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::cli::Cli;

/// The longest that anything here may take.
const LIMIT: Duration = Duration::from_secs(30);

const STARTUP: &[u8] = b"\0\0\0\x0e\0\x03\0\0user\0\0";

/// AuthenticationOk, ReadyForQuery.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// Welcomes everybody, and says no more; ends with the runtime of its test.
async fn welcome_everybody() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut clients = Vec::new();
        while let Ok((mut client, _)) = socket.accept().await {
            client.read_exact(&mut [0; STARTUP.len()]).await.unwrap();
            client.write_all(WELCOME).await.unwrap();
            clients.push(client);
        }
    });
    address
}

async fn is_welcomed(port: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(port).await.unwrap();
    client.write_all(STARTUP).await.unwrap();
    let mut said = [0; WELCOME.len()];
    client.read_exact(&mut said).await.unwrap();
    assert_eq!(said, WELCOME);
    client
}

async fn panics_are_outlived(engine: &str) {
    let server = welcome_everybody().await.to_string();
    let flags = ["dugong-proxy", "--primary", &server, "--relay-engine", engine];
    let flags =
        flags.into_iter().chain(["--write-port", "0", "--read-port", "0", "--http-port", "0"]);
    let config = Cli::parse_from(flags).into_config(std::iter::empty()).unwrap();
    let sockets = Sockets::bind(&config).unwrap();
    let [write, ..] = sockets.addresses().unwrap();
    let (_stage, shutdown) = Shutdown::new();
    let mut duties = JoinSet::new();
    let (shared, _partings) = share(config, Handle::current(), shutdown, &mut duties).unwrap();
    let ports = [(Listener::Write, sockets.write), (Listener::Read, sockets.read)];
    let _accepting = accept(ports, &shared).unwrap();

    for _ in 0..3 {
        let mut client = is_welcomed(write).await;
        shared.crew.panic(0);
        let said = client.read(&mut [0]).await;
        assert!(matches!(said, Ok(0) | Err(_)), "its session has ended: {said:?}");
    }
    is_welcomed(write).await;
    shared.crew.set_door(None);
}

#[tokio::test]
async fn a_panic_ends_the_sessions_of_its_thread_and_the_door_opens_again() {
    for engine in ["epoll", "io_uring"] {
        let what = panics_are_outlived(engine);
        timeout(LIMIT, what).await.unwrap_or_else(|_| panic!("{engine}: not within {LIMIT:?}"));
    }
}
