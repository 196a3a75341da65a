//! Cuts in each direction, delays and loss, seen by real sockets on every host.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dugong_lab::namespace;
use dugong_lab::network::{HostId, Network};

/// Long enough for any packet that is on its way.
const PATIENCE: Duration = Duration::from_secs(10);

/// Long enough to be sure that a packet between two idle hosts does not arrive.
const NEVER: Duration = Duration::from_millis(150);

struct Lab {
    /// A socket outlives its host's namespace, but not the other way round: dropped first.
    sockets: Vec<UdpSocket>,
    network: Network,
}

impl Lab {
    fn of(count: usize) -> Self {
        let names: Vec<String> = (1..=count).map(|n| format!("h{n}")).collect();
        let network = Network::make(&names).unwrap();
        let socket = |host| inside(&network, host, move |at| UdpSocket::bind(at).unwrap());
        Self { sockets: network.hosts().map(socket).collect(), network }
    }

    /// Whether a datagram gets from one host to another within `limit`.
    fn reaches(&self, from: HostId, to: HostId, limit: Duration) -> bool {
        let word = format!("{} to {}", from.0, to.0);
        let target = self.sockets[to.0].local_addr().unwrap();
        self.sockets[from.0].send_to(word.as_bytes(), target).unwrap();
        self.sockets[to.0].set_read_timeout(Some(limit)).unwrap();
        let mut buffer = [0; 64];
        match self.sockets[to.0].recv(&mut buffer) {
            Ok(length) => {
                assert_eq!(&buffer[..length], word.as_bytes());
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{word}: {error}"),
        }
    }
}

/// What `work` makes on a host, from an address there with a port that the system chooses.
fn inside<T: Send + 'static>(
    network: &Network,
    host: HostId,
    work: impl FnOnce(SocketAddr) -> T + Send + 'static,
) -> T {
    let address = SocketAddr::from((network.address(host), 0));
    network.namespace(host).thread(move || work(address)).unwrap().join().unwrap().unwrap()
}

#[test]
fn each_pair_is_cut_in_each_direction_alone() {
    if !crate::able() {
        return;
    }
    let lab = Lab::of(3);
    let pairs = || {
        let hosts = || lab.network.hosts();
        hosts().flat_map(move |a| hosts().map(move |b| (a, b))).filter(|(a, b)| a != b)
    };
    for (from, to) in pairs() {
        assert!(lab.reaches(from, to, PATIENCE), "{from:?} to {to:?}");
    }
    for (from, to) in pairs() {
        lab.network.cut(from, to);
        assert!(!lab.reaches(from, to, NEVER), "cut {from:?} to {to:?}");
        for (a, b) in pairs().filter(|pair| *pair != (from, to)) {
            assert!(lab.reaches(a, b, PATIENCE), "{a:?} to {b:?} while {from:?} to {to:?} is cut");
        }
        lab.network.mend(from, to);
        assert!(lab.reaches(from, to, PATIENCE), "mended {from:?} to {to:?}");
    }
}

#[test]
fn a_cut_connection_is_silent_and_goes_on_when_it_is_mended() {
    if !crate::able() {
        return;
    }
    let lab = Lab::of(2);
    let [a, b] = [HostId(0), HostId(1)];
    let listener = inside(&lab.network, b, |at| TcpListener::bind(at).unwrap());
    let target = listener.local_addr().unwrap();
    let connect = move |_| {
        TcpStream::connect_timeout(&target, Duration::from_millis(700)).map_err(|e| e.kind())
    };
    let mut client = inside(&lab.network, a, connect).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(NEVER)).unwrap();

    lab.network.cut(a, b);
    client.write_all(b"hello").unwrap();
    let mut buffer = [0; 5];
    assert_eq!(server.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    // Neither refused nor unreachable: nobody answers.
    assert_eq!(inside(&lab.network, a, connect).unwrap_err(), ErrorKind::TimedOut);
    // The other direction is open.
    server.write_all(b"still").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"still");

    lab.network.mend(a, b);
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    server.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"hello");
}

#[test]
fn a_delay_is_as_long_as_it_says_and_keeps_the_order() {
    if !crate::able() {
        return;
    }
    let lab = Lab::of(2);
    let [a, b] = [HostId(0), HostId(1)];
    let delay = Duration::from_millis(200);
    lab.network.delay(a, b, delay);
    let begun = Instant::now();
    assert!(lab.reaches(a, b, PATIENCE));
    assert!(begun.elapsed() >= delay, "after {:?}", begun.elapsed());
    let begun = Instant::now();
    assert!(lab.reaches(b, a, PATIENCE));
    assert!(begun.elapsed() < delay, "the other direction: {:?}", begun.elapsed());

    let target = lab.sockets[1].local_addr().unwrap();
    for number in 0..50_u8 {
        if number == 25 {
            // What is sent without a delay does not overtake what was sent before.
            lab.network.hasten(a, b, delay);
        }
        lab.sockets[0].send_to(&[number], target).unwrap();
    }
    lab.sockets[1].set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 8];
    for number in 0..50_u8 {
        assert_eq!(lab.sockets[1].recv(&mut buffer).unwrap(), 1);
        assert_eq!(buffer[0], number);
    }
}

#[test]
fn what_is_on_its_way_when_a_line_is_cut_is_lost() {
    if !crate::able() {
        return;
    }
    let lab = Lab::of(2);
    let [a, b] = [HostId(0), HostId(1)];
    lab.network.delay(a, b, Duration::from_millis(300));
    let target = lab.sockets[1].local_addr().unwrap();
    lab.sockets[0].send_to(b"too late", target).unwrap();
    lab.network.cut(a, b);
    lab.sockets[1].set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    assert_eq!(lab.sockets[1].recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn loss_loses_some_and_tcp_copes() {
    if !crate::able() {
        return;
    }
    let lab = Lab::of(2);
    let [a, b] = [HostId(0), HostId(1)];
    lab.network.lose(a, b, 50);
    let target = lab.sockets[1].local_addr().unwrap();
    for _ in 0..200 {
        lab.sockets[0].send_to(b"x", target).unwrap();
    }
    lab.sockets[1].set_read_timeout(Some(NEVER)).unwrap();
    let mut arrived = 0;
    while lab.sockets[1].recv(&mut [0; 8]).is_ok() {
        arrived += 1;
    }
    assert!((50..150).contains(&arrived), "{arrived} of 200 arrived");
}

#[test]
fn processes_of_a_host_end_with_it() {
    if !crate::able() {
        return;
    }
    let network = Network::make(&["h1".to_owned(), "h2".to_owned()]).unwrap();
    let namespace = network.namespace(HostId(0));
    let mut child = Command::new("nsenter")
        .arg(format!("--net={}", namespace.handle().display()))
        .args(["sh", "-c", "sleep 600 & sleep 600 & wait"])
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while namespace.processes().unwrap().len() < 3 {
        assert!(Instant::now() < deadline, "three processes begin");
        std::thread::yield_now();
    }
    assert!(network.namespace(HostId(1)).processes().unwrap().is_empty());
    let handle = namespace.handle();
    drop(network);
    assert!(!child.wait().unwrap().success());
    assert!(!handle.exists());
}

#[test]
fn what_a_dead_owner_left_is_removed_with_its_processes() {
    if !crate::able() {
        return;
    }
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let name = format!("dugonglab{}x0-left", dead.id());
    let run = |arguments: &[&str]| {
        assert!(Command::new("ip").args(arguments).status().unwrap().success(), "{arguments:?}");
    };
    let own = Network::make(&["h1".to_owned()]).unwrap();
    run(&["netns", "add", &name]);
    let mut left =
        Command::new("ip").args(["netns", "exec", &name, "sleep", "600"]).spawn().unwrap();
    let namespace_of = |path: &Path| fs::metadata(path).map(|found| found.ino());
    let (handle, process) =
        (Path::new("/run/netns").join(&name), format!("/proc/{}/ns/net", left.id()));
    // It takes a moment to enter. Another laboratory that begins beside this test may be first.
    while let Ok(wanted) = namespace_of(&handle)
        && left.try_wait().unwrap().is_none()
        && namespace_of(Path::new(&process)).ok() != Some(wanted)
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    if !handle.exists() {
        // It may have entered what that one had looked into before.
        left.kill().unwrap();
    }
    namespace::remove_leftovers().unwrap();
    assert!(!left.wait().unwrap().success());
    assert!(!own.namespace(HostId(0)).name().contains(&name));
    assert!(own.namespace(HostId(0)).handle().exists(), "the owner of this one lives");
    assert!(!Path::new("/run/netns").join(&name).exists());
}
