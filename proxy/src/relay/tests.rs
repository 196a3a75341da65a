//! The relay between two sockets of this process.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;

/// Collects what arrived.
#[derive(Default)]
struct Seen(Vec<u8>);

impl Observer for Seen {
    fn arrived(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }
}

/// Has heard a farewell once anything was asked.
#[derive(Default)]
struct Leaving(bool);

impl Observer for Leaving {
    fn asked(&mut self, _bytes: &[u8]) {
        self.0 = true;
    }

    fn arrived(&mut self, _bytes: &[u8]) {}

    fn has_heard_farewell(&self) -> bool {
        self.0
    }
}

async fn connected_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

fn relay(spoken: &[u8]) -> Relay {
    Relay::new(spoken.to_vec(), Counters { to_server: Counter::noop(), to_client: Counter::noop() })
}

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn bytes_go_both_ways_and_a_half_closed_client_gets_the_rest() {
    let (mut client, mut client_side) = connected_pair().await;
    let (mut server_side, mut server) = connected_pair().await;
    let mut relay = relay(b"hello ");
    let mut seen = Seen::default();

    let server_task = async {
        let mut asked = Vec::new();
        server.read_to_end(&mut asked).await.unwrap();
        server.write_all(b"world").await.unwrap();
        drop(server);
        asked
    };
    let client_task = async {
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_exact(answer_of(&mut answer, 11)).await.unwrap();
        answer
    };
    let all = async {
        tokio::join!(
            relay.run(&mut client_side, &mut server_side, &mut seen),
            server_task,
            client_task
        )
    };
    let (ended, asked, answer) = timeout(LIMIT, all).await.unwrap();

    assert!(matches!(ended, Some(Ended::ByClient)), "{ended:?}");
    assert_eq!(asked, b"question");
    assert_eq!(answer, b"hello world");
    assert_eq!(seen.0, b"world", "what was spoken before is not observed again");
}

fn answer_of(answer: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    answer.resize(bytes, 0);
    answer
}

#[tokio::test]
async fn a_server_that_closes_first_is_told_from_a_client_that_does() {
    let (client, mut client_side) = connected_pair().await;
    let (mut server_side, server) = connected_pair().await;
    drop(server);
    let mut relay = relay(b"");
    let mut seen = Seen::default();
    let run = relay.run(&mut client_side, &mut server_side, &mut seen);
    let ended = timeout(LIMIT, run).await.unwrap();
    assert!(matches!(ended, Some(Ended::ServerClosed)), "{ended:?}");
    drop(client);
}

#[tokio::test]
async fn a_client_that_reads_nothing_stops_the_server() {
    let (client, mut client_side) = connected_pair().await;
    let (mut server_side, mut server) = connected_pair().await;
    let mut relay = relay(b"");
    let mut seen = Seen::default();

    // Stuck once no byte was taken for a while: the kernel's buffers on both sides are full, and
    // the relay's is too.
    let mut pushed = 0;
    let chunk = vec![1; 64 * 1024];
    let flood = async {
        while let Ok(bytes) = timeout(Duration::from_millis(300), server.write(&chunk)).await {
            pushed += bytes.unwrap();
        }
    };
    let run = relay.run(&mut client_side, &mut server_side, &mut seen);
    tokio::select! {
        ended = run => panic!("ended: {ended:?}"),
        result = timeout(LIMIT, flood) => result.unwrap(),
    }
    assert!(!relay.unsent_to_client().is_empty());
    assert!(relay.unsent_to_client().len() <= BUFFER_BYTES);
    assert!(seen.0.len() < pushed, "the rest waits in the kernel");
    drop(client);
}

#[tokio::test]
async fn streams_that_hold_bytes_back_are_flushed_before_more_is_waited_for() {
    let (mut client, client_side) = connected_pair().await;
    let (server_side, mut server) = connected_pair().await;
    let (mut client_side, mut server_side) =
        (BufStream::new(client_side), BufStream::new(server_side));
    let mut relay = relay(b"");
    let mut seen = Seen::default();
    let talk = async {
        let mut heard = [0; 8];
        client.write_all(b"question").await.unwrap();
        server.read_exact(&mut heard).await.unwrap();
        server.write_all(&heard).await.unwrap();
        client.read_exact(&mut heard).await.unwrap();
        heard
    };
    let run = relay.run(&mut client_side, &mut server_side, &mut seen);
    let heard = tokio::select! {
        ended = run => panic!("ended: {ended:?}"),
        heard = timeout(LIMIT, talk) => heard.unwrap(),
    };
    assert_eq!(&heard, b"question");
}

#[tokio::test]
async fn after_a_farewell_the_server_closes_first() {
    for client_stays in [true, false] {
        let (mut client, mut client_side) = connected_pair().await;
        let (mut server_side, mut server) = connected_pair().await;
        let (mut relay, mut leaving) = (relay(b""), Leaving::default());
        let both = async {
            client.write_all(b"X").await.unwrap();
            if !client_stays {
                client.shutdown().await.unwrap();
            }
            server.read_exact(&mut [0]).await.unwrap();
            let more = timeout(Duration::from_millis(100), server.read(&mut [0])).await;
            assert!(more.is_err(), "the proxy has closed first: {more:?}");
            drop(server);
        };
        let relaying = relay.run(&mut client_side, &mut server_side, &mut leaving);
        let all = async { tokio::join!(relaying, both) };
        let (ended, ()) = timeout(LIMIT, all).await.unwrap();
        assert!(matches!(ended, Some(Ended::ByClient)), "client stays: {client_stays}: {ended:?}");
    }
}
