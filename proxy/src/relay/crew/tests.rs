//! Relay threads between sockets of this process.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use dugong_topology::{Address, Generation, Phase, Revision, Topology};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch::Sender;
use tokio::time::timeout;

use super::*;
use crate::cancel::Cancels;
use crate::error::SessionError;
use crate::metrics::Gauges;
use crate::relay::balance::Move;
use crate::relay::session::Terms;
use crate::route::{Seat, Target};
use crate::session::follower::Follower;
use crate::watch::Board;

/// The longest that anything here may take.
const LIMIT: Duration = Duration::from_secs(30);

/// AuthenticationOk, ReadyForQuery: two whole messages.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// A crew, and what the control side would hold.
struct Bench {
    crew: Arc<Crew>,
    board: Board,
    stage: Sender<Stage>,
    partings: UnboundedReceiver<Parted>,
    gauges: Arc<Gauges>,
    cancels: Arc<Cancels>,
}

impl Bench {
    fn new(engine: EngineChoice, threads: usize) -> Self {
        let (board, topologies) = Board::new();
        let (stage, shutdown) = Shutdown::new();
        let (parted, partings) = unbounded_channel();
        let crew = Arc::new(Crew::start(threads, engine, &topologies, &shutdown, &parted).unwrap());
        let herald = Arc::clone(&crew);
        // Ends with the runtime of its test.
        tokio::spawn(async move { herald.herald(topologies, shutdown).await });
        let (gauges, cancels) = Default::default();
        Self { crew, board, stage, partings, gauges, cancels }
    }

    /// The far ends of a session on `pg-1`: the client's and the server's.
    async fn session(&self, listener: Listener, spoken: &[u8]) -> (TcpStream, TcpStream) {
        let (server_side, server) = connected_pair().await;
        let server_side = server_side.into_std().unwrap().into();
        (self.session_with(server_side, listener, spoken).await, server)
    }

    /// The client's far end of a session with that server.
    async fn session_with(&self, server: OwnedFd, listener: Listener, spoken: &[u8]) -> TcpStream {
        let (far_client, client) = connected_pair().await;
        let target = Arc::new(Target {
            id: "pg-1".parse().unwrap(),
            address: Address::loopback(1),
            seat: Seat::Primary,
        });
        let follower = Follower::new(Arc::clone(&target), Arc::clone(&self.cancels));
        let open = self.gauges.open(listener);
        let terms = Terms { listener, target, follower: Some(follower), open };
        let client = client.into_std().unwrap().into();
        self.crew.adopt(Session::new(client, server, spoken.to_vec(), terms));
        far_client
    }

    /// Publishes a topology whose primary is another one.
    fn fail_over(&mut self) {
        let member = serde_json::json!({ "id": "pg-2", "address": "127.0.0.1:2", "healthy": true });
        self.board.judge(Topology {
            generation: Generation(2),
            phase: Phase::ReadWrite,
            primary: Some(serde_json::from_value(member).unwrap()),
            ..Topology::unformed("main".to_owned(), Revision(2))
        });
    }

    async fn parting(&mut self) -> Parted {
        within("a session ends", self.partings.recv()).await.unwrap()
    }
}

async fn connected_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}

/// Sends in pieces of random sizes, most of them small.
async fn send_in_pieces(to: &mut WriteHalf<'_>, bytes: &[u8], mut dice: Dice) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let largest = if dice.below(4) == 0 { 200_000 } else { 300 };
        let (piece, left) = rest.split_at(rest.len().min(1 + dice.below(largest)));
        to.write_all(piece).await.unwrap();
        rest = left;
        if dice.below(8) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Reads to the end, sometimes much and sometimes little at a time.
async fn read_in_pieces(from: &mut ReadHalf<'_>, mut dice: Dice) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = vec![0; 100_000];
    loop {
        let most = if dice.below(3) == 0 { 100_000 } else { 2_000 };
        let end = 1 + dice.below(most);
        match from.read(&mut piece[..end]).await.unwrap() {
            0 => return all,
            bytes => all.extend(&piece[..bytes]),
        }
    }
}

/// Both sides send and read at random; the client closes first.
async fn exchange(bench: &Bench, seed: u64) {
    let mut dice = Dice(seed);
    let [spoken, asked, said] =
        [5_000, 900_000, 900_000].map(|most| dice.below(most)).map(|count| dice.bytes(count));
    let (mut client, mut server) = bench.session(Listener::Write, &spoken).await;
    let (mut client_reads, mut client_writes) = client.split();
    let (mut server_reads, mut server_writes) = server.split();
    let client_side = async {
        let sending = async {
            send_in_pieces(&mut client_writes, &asked, Dice(seed + 100)).await;
            client_writes.shutdown().await.unwrap();
        };
        tokio::join!(read_in_pieces(&mut client_reads, Dice(seed + 200)), sending).0
    };
    let server_side = async {
        let sending = send_in_pieces(&mut server_writes, &said, Dice(seed + 300));
        let reading = read_in_pieces(&mut server_reads, Dice(seed + 400));
        let (read, ()) = tokio::join!(reading, sending);
        // Only now: a server that closes first ends the session.
        server_writes.shutdown().await.unwrap();
        read
    };
    let both = async { tokio::join!(client_side, server_side) };
    let (client_read, server_read) = within("the exchange", both).await;
    assert!(server_read == asked, "seed {seed}: what the server got");
    assert!(client_read == [spoken, said].concat(), "seed {seed}: what the client got");
}

async fn no_byte_is_lost_or_changed_however_the_streams_are_cut(engine: EngineChoice) {
    let bench = Bench::new(engine, 2);
    for seed in 0..12 {
        exchange(&bench, seed).await;
    }
    within("all sessions end", bench.gauges.deserted()).await;
}

async fn sessions_change_their_thread_and_lose_no_byte(engine: EngineChoice) {
    let bench = Bench::new(engine, 3);
    let exchanges = async {
        tokio::join!(
            exchange(&bench, 1),
            exchange(&bench, 2),
            exchange(&bench, 3),
            exchange(&bench, 4),
            exchange(&bench, 5),
        )
    };
    let mut moves = 0_usize;
    let moving = async {
        loop {
            let (from, to) = (moves % 3, (moves + 1) % 3);
            let what = Move { from, to, sessions: 1 + moves % 2 };
            bench.crew.posts[from].mailbox.send(Letter::Give(what));
            moves += 1;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = exchanges => (),
        () = moving => unreachable!("it goes on for ever"),
    }
    assert!(moves > 5, "there was time to move");
    within("all sessions end", bench.gauges.deserted()).await;
}

async fn sessions_are_given_evenly_and_quiet_ones_go_on(engine: EngineChoice) {
    let bench = Bench::new(engine, 3);
    let mut ends = Vec::new();
    for _ in 0..90 {
        ends.push(bench.session(Listener::Write, b"").await);
    }
    let what = Move { from: 0, to: 2, sessions: 30 };
    bench.crew.posts[0].mailbox.send(Letter::Give(what));
    let moved = async {
        while bench.crew.sessions() != [60, 0, 30] {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within("a third has moved", moved).await;
    for (client, server) in &mut ends {
        client.write_all(b"?").await.unwrap();
        within("the question", server.read_exact(&mut [0])).await.unwrap();
    }
}

async fn a_client_that_reads_nothing_stops_its_own_server_and_nobody_else(engine: EngineChoice) {
    let bench = Bench::new(engine, 1);
    let (mut slow, mut flooding) = bench.session(Listener::Write, b"").await;
    let (mut quick, mut answering) = bench.session(Listener::Read, b"").await;
    let chunk = vec![1; 64 * 1024];
    let mut pushed = 0;
    loop {
        // The other session has its turn all the while.
        quick.write_all(b"question").await.unwrap();
        let mut bytes = [0; 8];
        within("the question", answering.read_exact(&mut bytes)).await.unwrap();
        answering.write_all(b"response").await.unwrap();
        within("the response", quick.read_exact(&mut bytes)).await.unwrap();
        match timeout(Duration::from_millis(300), flooding.write(&chunk)).await {
            Ok(bytes) => pushed += bytes.unwrap(),
            // Stuck: all that the kernel and the relay keep for this session is full.
            Err(_) => break,
        }
    }
    let mut arrived = 0;
    let mut piece = vec![0; 64 * 1024];
    while arrived < pushed {
        let bytes = within("the rest", slow.read(&mut piece)).await.unwrap();
        assert!(piece[..bytes].iter().all(|byte| *byte == 1));
        arrived += bytes;
    }
    assert_eq!(arrived, pushed, "nothing is lost, nothing is said twice");
}

async fn a_stream_of_bulk_and_small_queries_share_a_thread(engine: EngineChoice) {
    let bench = Bench::new(engine, 1);
    let (bulk, flooding) = bench.session(Listener::Write, b"").await;
    let (mut quick, mut answering) = bench.session(Listener::Read, b"").await;
    let (mut bulk_reads, _bulk_writes) = bulk.into_split();
    let (_flood_reads, mut flood_writes) = flooding.into_split();
    let flood = async {
        let chunk = vec![1; 256 * 1024];
        loop {
            flood_writes.write_all(&chunk).await.unwrap();
        }
    };
    let mut taken = 0_usize;
    let drain = async {
        let mut piece = vec![0; 256 * 1024];
        loop {
            taken += bulk_reads.read(&mut piece).await.unwrap();
        }
    };
    let queries = async {
        for _ in 0..300 {
            let mut bytes = [0; 8];
            quick.write_all(b"question").await.unwrap();
            answering.read_exact(&mut bytes).await.unwrap();
            answering.write_all(b"response").await.unwrap();
            quick.read_exact(&mut bytes).await.unwrap();
        }
    };
    tokio::select! {
        () = within("all queries", queries) => (),
        () = flood => unreachable!("it goes on for ever"),
        () = drain => unreachable!("it goes on for ever"),
    }
    assert!(taken > 1 << 20, "the stream went on meanwhile: {taken} bytes");
}

/// Sends much in small pieces, and last of all little, without an end; the far side reads all of it.
async fn pass_in_bulk(from: &mut TcpStream, to: &mut TcpStream) {
    const PIECES: usize = 1_000;
    let sending = async {
        for _ in 0..PIECES {
            from.write_all(&[1; 8 * 1024]).await.unwrap();
        }
        from.write_all(b"the last").await.unwrap();
    };
    let mut all = vec![0; PIECES * 8 * 1024 + 8];
    let passing = async { tokio::join!(sending, to.read_exact(&mut all)).1 };
    within("all of it", passing).await.unwrap();
    assert_eq!(all[all.len() - 9..], *b"\x01the last");
}

async fn the_last_of_bulk_comes_however_little_it_is(engine: EngineChoice) {
    let bench = Bench::new(engine, 1);
    let (mut client, mut server) = bench.session(Listener::Write, b"").await;
    for _ in 0..3 {
        pass_in_bulk(&mut server, &mut client).await;
        pass_in_bulk(&mut client, &mut server).await;
        client.write_all(b"?").await.unwrap();
        within("the question", server.read_exact(&mut [0])).await.unwrap();
    }
}

async fn sessions_in_bulk_change_their_thread(engine: EngineChoice) {
    let bench = Bench::new(engine, 2);
    let (mut client, mut server) = bench.session(Listener::Write, b"").await;
    let bulk = async {
        for _ in 0..5 {
            pass_in_bulk(&mut server, &mut client).await;
        }
    };
    let moving = async {
        for from in (0..2).cycle() {
            let what = Move { from, to: 1 - from, sessions: 1 };
            bench.crew.posts[from].mailbox.send(Letter::Give(what));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        () = bulk => (),
        () = moving => unreachable!("it goes on for ever"),
    }
}

/// More than the queues to the kernel hold at once.
async fn hundreds_of_sessions_may_all_move_in_one_turn(engine: EngineChoice) {
    const SESSIONS: usize = 220;
    let bench = Bench::new(engine, 1);
    let mut ends = Vec::new();
    for _ in 0..SESSIONS {
        ends.push(bench.session(Listener::Write, b"").await);
    }
    for (client, server) in &mut ends {
        client.write_all(b"question").await.unwrap();
        server.write_all(b"response").await.unwrap();
    }
    for (client, server) in &mut ends {
        let mut bytes = [0; 8];
        within("a question", server.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(&bytes, b"question");
        within("a response", client.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(&bytes, b"response");
    }
}

async fn who_closes_first_decides_how_a_session_ends(engine: EngineChoice) {
    let mut bench = Bench::new(engine, 1);
    let (client, mut server) = bench.session(Listener::Write, WELCOME).await;
    drop(client);
    let mut rest = Vec::new();
    // It may have been reset: the welcome was not read.
    let _ = within("the server is left", server.read_to_end(&mut rest)).await;
    drop(server);
    within("its place is free", bench.gauges.deserted()).await;

    let (client, server) = bench.session(Listener::Write, WELCOME).await;
    drop(server);
    let parted = bench.parting().await;
    assert!(matches!(parted.why, SessionError::ServerLost { .. }), "{:?}", parted.why);
    drop((client, parted));
    within("its place is free", bench.gauges.deserted()).await;
}

async fn a_failover_parts_with_every_session_and_loses_no_byte_of_theirs(engine: EngineChoice) {
    const SESSIONS: usize = 200;
    let mut bench = Bench::new(engine, 2);
    let mut ends = Vec::new();
    for _ in 0..SESSIONS {
        ends.push(bench.session(Listener::Write, WELCOME).await);
    }
    for (client, _) in &mut ends {
        let mut welcome = [0; WELCOME.len()];
        within("the welcome", client.read_exact(&mut welcome)).await.unwrap();
    }
    // One is in the middle of a message, and has nobody to be told.
    ends[0].1.write_all(b"D\0\0\0\x10half").await.unwrap();
    within("half a message", ends[0].0.read_exact(&mut [0; 9])).await.unwrap();

    bench.fail_over();
    for _ in 1..SESSIONS {
        let parted = bench.parting().await;
        assert!(matches!(parted.why, SessionError::Leave(_)), "{:?}", parted.why);
        assert_eq!(parted.unsent, b"");
    }
    let mut rest = Vec::new();
    within("the interrupted one is closed", ends[0].0.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"");

    let (_late, _server) = bench.session(Listener::Write, WELCOME).await;
    let parted = bench.parting().await;
    assert!(matches!(parted.why, SessionError::Leave(_)), "one that came too late goes, too");
}

async fn servers_that_end_together_end_their_own_sessions_after_their_last_message(
    engine: EngineChoice,
) {
    const SESSIONS: usize = 200;
    const LAST: &[u8] = b"C\0\0\0\x06!\0Z\0\0\0\x05I";
    let mut bench = Bench::new(engine, 1);
    let (mut quick, mut answering) = bench.session(Listener::Read, b"").await;
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..SESSIONS {
        let (client, server) = bench.session(Listener::Write, WELCOME).await;
        clients.push(client);
        servers.push(server);
    }
    for server in &mut servers {
        server.write_all(LAST).await.unwrap();
    }
    drop(servers);
    let mut partings = Vec::new();
    for _ in 0..SESSIONS {
        let parted = bench.parting().await;
        assert!(matches!(parted.why, SessionError::ServerLost { .. }), "{:?}", parted.why);
        partings.push(parted);
    }
    for (client, parted) in clients.iter_mut().zip(partings) {
        assert_eq!(parted.unsent, b"");
        let mut heard = [0; WELCOME.len() + LAST.len()];
        within("the last message", client.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard[..], [WELCOME, LAST].concat());
    }
    let mut byte = [0];
    quick.write_all(b"?").await.unwrap();
    within("the question", answering.read_exact(&mut byte)).await.unwrap();
    answering.write_all(b"!").await.unwrap();
    within("the answer", quick.read_exact(&mut byte)).await.unwrap();
}

/// What is no address of this machine's loopback, a socket of another kind too, is elsewhere.
async fn a_server_elsewhere_closes_first_when_a_client_says_farewell(engine: EngineChoice) {
    let bench = Bench::new(engine, 1);
    for client_stays in [true, false] {
        let (server_side, mut server) = UnixStream::pair().unwrap();
        let server_side = server_side.into_std().unwrap().into();
        let mut client = bench.session_with(server_side, Listener::Write, WELCOME).await;
        client.write_all(TERMINATE).await.unwrap();
        if !client_stays {
            client.shutdown().await.unwrap();
        }
        let mut heard = [0; TERMINATE.len()];
        within("the farewell", server.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, TERMINATE);
        // Nothing is a condition to wait for: a proxy that closed would do so at once.
        let more = timeout(Duration::from_millis(100), server.read(&mut heard)).await;
        assert!(more.is_err(), "the proxy has closed first: {more:?}");
        drop(server);
        let mut said = Vec::new();
        within("the client's end", client.read_to_end(&mut said)).await.unwrap();
        assert_eq!(said, WELCOME);
        within("all sessions end", bench.gauges.deserted()).await;
    }
}

async fn what_the_client_did_not_take_yet_goes_before_the_last_word(engine: EngineChoice) {
    let mut bench = Bench::new(engine, 1);
    // More than the kernel keeps for one connection; whole messages, so that something may follow.
    let row: Vec<u8> = b"D\0\x01\0\x04".iter().copied().chain([7; 0x1_0000]).collect();
    let said = row.repeat(512);
    let (mut slow, _server) = bench.session(Listener::Write, &said).await;
    bench.stage.send_replace(Stage::Ending);
    let parted = bench.parting().await;
    assert!(matches!(parted.why, SessionError::ShuttingDown), "{:?}", parted.why);
    assert!(!parted.unsent.is_empty());
    drop(parted.client);
    let mut taken = Vec::new();
    within("what was sent", slow.read_to_end(&mut taken)).await.unwrap();
    assert!([taken, parted.unsent].concat() == said, "nothing is lost, nothing is said twice");
}

/// Each claim, for each engine.
macro_rules! with_both_engines {
    ($($claim:ident),* $(,)?) => {
        mod epoll {
            $(#[tokio::test] async fn $claim() { super::$claim(super::EngineChoice::Epoll).await })*
        }
        mod io_uring {
            $(#[tokio::test] async fn $claim() { super::$claim(super::EngineChoice::IoUring).await })*
        }
    };
}

with_both_engines![
    no_byte_is_lost_or_changed_however_the_streams_are_cut,
    sessions_change_their_thread_and_lose_no_byte,
    sessions_are_given_evenly_and_quiet_ones_go_on,
    the_last_of_bulk_comes_however_little_it_is,
    sessions_in_bulk_change_their_thread,
    a_stream_of_bulk_and_small_queries_share_a_thread,
    hundreds_of_sessions_may_all_move_in_one_turn,
    a_client_that_reads_nothing_stops_its_own_server_and_nobody_else,
    who_closes_first_decides_how_a_session_ends,
    a_failover_parts_with_every_session_and_loses_no_byte_of_theirs,
    servers_that_end_together_end_their_own_sessions_after_their_last_message,
    a_server_elsewhere_closes_first_when_a_client_says_farewell,
    what_the_client_did_not_take_yet_goes_before_the_last_word,
];
