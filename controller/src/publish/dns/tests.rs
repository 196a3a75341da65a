//! Topologies and requests in, responses out: the whole name server without its sockets.

use dugong_topology::{Address, Generation, InstanceId, Member, Phase, Revision, Topology};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};

use super::message::{Transport, respond};
use super::zone::Zone;

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

fn member(name: &str, host: &str) -> Member {
    Member {
        id: id(name),
        address: Some(Address { host: host.to_owned(), port: 5432 }),
        healthy: true,
        position: None,
        http: Some(Address { host: host.to_owned(), port: 8008 }),
        state: "running".to_owned(),
        upstream: None,
        lag_bytes: None,
        lag_seconds: None,
        making: None,
        note: None,
    }
}

fn away(member: Member) -> Member {
    Member { healthy: false, state: "unreachable".to_owned(), ..member }
}

/// Four instances: addresses of both kinds, and one that was never seen.
fn cluster() -> Topology {
    Topology {
        generation: Generation(3),
        phase: Phase::ReadWrite,
        primary: Some(member("pg-1", "10.0.0.1")),
        sync: Some(member("pg-2", "10.0.0.2")),
        asyncs: vec![
            member("pg-3", "fd00::3"),
            Member { address: None, http: None, ..away(member("pg-4", "")) },
        ],
        ..Topology::unformed("main".to_owned(), Revision(42))
    }
}

/// Instances that are known by host names.
fn named() -> Topology {
    Topology {
        primary: Some(member("pg-1", "db1.example.com")),
        sync: Some(member("pg-2", "db2.example.com")),
        asyncs: vec![member("pg-3", "db3.example.com"), member("pg-4", "pg-4.main.db.internal")],
        ..cluster()
    }
}

fn zone() -> Zone {
    Zone::new("db.internal", "main", 1).unwrap()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut request = Message::new(0, MessageType::Query, OpCode::Query);
    request.metadata.recursion_desired = true;
    request.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    request
}

fn response(topology: Option<&Topology>, request: &Message, transport: Transport) -> Message {
    let bytes = respond(&zone(), topology, &request.to_vec().unwrap(), transport).unwrap();
    Message::from_vec(&bytes).unwrap()
}

fn ask(topology: &Topology, name: &str, kind: RecordType) -> Message {
    response(Some(topology), &question(name, kind), Transport::Tcp)
}

/// The data of the answers.
fn data(response: &Message) -> Vec<String> {
    response.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn names_lead_to_whom_the_topology_names() {
    use RecordType::{A, AAAA, ANY, CNAME, MX, NS, SRV};
    let vacant = Topology {
        phase: Phase::CatchingUp,
        sync: Some(away(member("pg-2", "10.0.0.2"))),
        ..cluster()
    };
    let unformed = Topology::unformed("main".to_owned(), Revision(1));
    let (whole, named) = (cluster(), named());
    let controllers = ["10 8008 pg-1", "10 8008 pg-2", "10 8008 pg-3"]
        .map(|rest| format!("0 {rest}.main.db.internal."))
        .join(", ");
    #[rustfmt::skip]
    let cases: [(&Topology, &str, RecordType, &str); 37] = [
        (&whole,    "primary.main.db.internal",    A,     "10.0.0.1"),
        (&whole,    "PRIMARY.Main.dB.Internal",    A,     "10.0.0.1"),
        (&whole,    "primary.main.db.internal",    AAAA,  ""), // it has no such address
        (&whole,    "primary.main.db.internal",    MX,    ""),
        (&whole,    "sync.main.db.internal",       A,     "10.0.0.2"),
        (&whole,    "replica.main.db.internal",    A,     "10.0.0.2"),
        (&whole,    "replica.main.db.internal",    AAAA,  "fd00::3"),
        (&whole,    "replica.main.db.internal",    ANY,   "10.0.0.2, fd00::3"),
        (&whole,    "controller.main.db.internal", A,     "10.0.0.1, 10.0.0.2"),
        (&whole,    "pg-3.main.db.internal",       AAAA,  "fd00::3"),
        (&whole,    "pg-4.main.db.internal",       A,     ""), // named, but never seen
        (&whole,    "pg-5.main.db.internal",       A,     "NXDomain"),
        (&whole,    "main.db.internal",            A,     ""),
        (&whole,    "_tcp.main.db.internal",       A,     ""),
        (&whole,    "_tcp.sync.main.db.internal",  A,     ""),
        (&whole,    "_tcp.pg-5.main.db.internal",  A,     "NXDomain"),
        (&whole,    "other.db.internal",           A,     "NXDomain"),
        (&whole,    "postgres.main.db.internal",   A,     "NXDomain"),
        (&whole,    "x.primary.main.db.internal",  A,     "NXDomain"),
        (&whole,    "primary.main.example.com",    A,     "Refused"),
        (&whole,    "internal",                    NS,    "Refused"),
        (&whole,    "_postgresql._tcp.primary.main.db.internal", SRV, "0 10 5432 pg-1.main.db.internal."),
        (&whole,    "_postgresql._tcp.pg-3.main.db.internal",    SRV, "0 10 5432 pg-3.main.db.internal."),
        (&whole,    "_postgresql._tcp.primary.main.db.internal", A,   ""),
        (&whole,    "_postgresql._tcp.pg-5.main.db.internal",    SRV, "NXDomain"),
        (&whole,    "_postgresql._udp.pg-1.main.db.internal",    SRV, "NXDomain"),
        (&whole,    "_dugong._tcp.main.db.internal",             SRV, &controllers),
        (&vacant,   "primary.main.db.internal",    A,     ""),
        (&vacant,   "sync.main.db.internal",       A,     ""),
        (&vacant,   "pg-2.main.db.internal",       A,     "10.0.0.2"),
        (&vacant,   "_postgresql._tcp.primary.main.db.internal", SRV, ""),
        (&unformed, "primary.main.db.internal",    A,     ""),
        (&unformed, "db.internal",                 NS,    "controller.main.db.internal."),
        (&named,    "primary.main.db.internal",    A,     "db1.example.com."),
        (&named,    "replica.main.db.internal",    CNAME, "db2.example.com."),
        (&named,    "pg-4.main.db.internal",       A,     ""), // its host name is this very name
        (&named,    "_postgresql._tcp.replica.main.db.internal", SRV, "0 10 5432 db2.example.com., 0 10 5432 db3.example.com."),
    ];
    for (topology, name, kind, expected) in cases {
        let got = ask(topology, name, kind);
        let code = got.metadata.response_code;
        let found = code == ResponseCode::NoError;
        let text = if found { data(&got).join(", ") } else { format!("{code:?}") };
        assert_eq!(text, expected, "{name} {kind}");
        assert!(!got.metadata.recursion_available, "{name}");
        assert_eq!(got.metadata.authoritative, code != ResponseCode::Refused, "{name}");
        // What is not there is not there for a second; and nobody speaks for others.
        let soa = got.authorities.iter().any(|record| record.record_type() == RecordType::SOA);
        assert_eq!(soa, got.answers.is_empty() && code != ResponseCode::Refused, "{name} {kind}");
        assert!(got.authorities.iter().all(|record| record.ttl == 1), "{name}");
    }
}

#[test]
fn the_zone_has_an_authority_and_a_name_for_each_server() {
    let mut topology = cluster();
    // A controller that listens elsewhere than its server has a name of its own.
    topology.sync.as_mut().unwrap().http = Some(Address { host: "10.9.0.2".to_owned(), port: 1 });
    let soa = ask(&topology, "db.internal", RecordType::SOA);
    assert_eq!(
        data(&soa),
        ["controller.main.db.internal. hostmaster.db.internal. 42 60 60 3600 1"]
    );
    let ns = ask(&topology, "DB.internal", RecordType::NS);
    let names = ["pg-1.main", "pg-2.controller.main", "pg-3.main"];
    assert_eq!(data(&ns), names.map(|name| format!("{name}.db.internal.")));
    let glue: Vec<_> =
        ns.additionals.iter().map(|glue| format!("{} {}", glue.name, glue.data)).collect();
    assert_eq!(
        glue,
        [
            "pg-1.main.db.internal. 10.0.0.1",
            "pg-2.controller.main.db.internal. 10.9.0.2",
            "pg-3.main.db.internal. fd00::3",
        ]
    );
    let own = ask(&topology, "pg-2.controller.main.db.internal", RecordType::A);
    assert_eq!(data(&own), ["10.9.0.2"]);
    let nobody = ask(&topology, "pg-5.controller.main.db.internal", RecordType::A);
    assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn an_srv_answer_brings_the_addresses_along() {
    let got = ask(&cluster(), "_postgresql._tcp.replica.main.db.internal", RecordType::SRV);
    let additional: Vec<_> =
        got.additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    assert_eq!(additional, ["pg-2.main.db.internal. 10.0.0.2", "pg-3.main.db.internal. fd00::3"]);
}

#[test]
fn equals_take_turns() {
    let mut request = question("controller.main.db.internal", RecordType::A);
    for (number, first) in [(0, "10.0.0.1"), (1, "10.0.0.2"), (3, "10.0.0.1")] {
        request.metadata.id = number;
        assert_eq!(data(&response(Some(&cluster()), &request, Transport::Udp))[0], first);
    }
    let mut request = question("replica.main.db.internal", RecordType::AAAA);
    for (number, only) in [(0, "db2.example.com."), (1, "db3.example.com.")] {
        request.metadata.id = number;
        assert_eq!(data(&response(Some(&named()), &request, Transport::Udp)), [only]);
    }
}

#[test]
fn nothing_is_made_up_before_the_store_was_read() {
    let code = |name| {
        let request = question(name, RecordType::A);
        response(None, &request, Transport::Udp).metadata.response_code
    };
    assert_eq!(code("primary.main.db.internal"), ResponseCode::ServFail);
    assert_eq!(code("nobody.example.com"), ResponseCode::Refused);
}

#[test]
fn what_is_no_question_of_ours_is_told_so() {
    let plain = || question("primary.main.db.internal", RecordType::A);
    let with = |change: &dyn Fn(&mut Message)| {
        let mut request = plain();
        change(&mut request);
        request
    };
    let of_kind = |kind| question("db.internal", kind);
    #[rustfmt::skip]
    let cases = [
        ("a status",        with(&|request| request.metadata.op_code = OpCode::Status),             ResponseCode::NotImp),
        ("no question",     with(&|request| request.queries.clear()),                               ResponseCode::FormErr),
        ("two questions",   with(&|request| request.queries.push(request.queries[0].clone())),      ResponseCode::FormErr),
        ("another class",   with(&|request| request.queries[0].query_class = DNSClass::CH),         ResponseCode::Refused),
        ("a newer EDNS",    with(&|request| { request.edns = Some(Edns::new()); request.edns.as_mut().unwrap().set_version(1); }), ResponseCode::BADVERS),
        ("a transfer",      of_kind(RecordType::AXFR),                                              ResponseCode::Refused),
    ];
    for (what, request, expected) in cases {
        let got = response(Some(&cluster()), &request, Transport::Tcp);
        // By number: 16 is read as BADSIG by the library, and is BADVERS in EDNS.
        let code = got.metadata.response_code;
        assert_eq!(u16::from(code), u16::from(expected), "{what}: {code:?}");
        assert_eq!(got.answers.len(), 0, "{what}");
        assert_eq!(got.edns.is_some(), request.edns.is_some(), "{what}");
    }
}

#[test]
fn garbage_gets_a_format_error_or_nothing() {
    let request = question("primary.main.db.internal", RecordType::A).to_vec().unwrap();
    let answer = |bytes: &[u8]| respond(&zone(), Some(&cluster()), bytes, Transport::Udp);
    for length in 0..12 {
        assert_eq!(answer(&request[..length]), None, "no header: {length}");
    }
    for length in 12..request.len() {
        let got = Message::from_vec(&answer(&request[..length]).unwrap()).unwrap();
        assert_eq!(got.metadata.response_code, ResponseCode::FormErr, "cut at {length}");
        assert_eq!(got.metadata.id, 0);
    }
    let mut own = request.clone();
    own[2] |= 0x80;
    assert_eq!(answer(&own), None, "a response is not responded to");
    // Each byte damaged in turn: whatever comes out, it is no panic, and never too long.
    for at in 0..request.len() {
        for bits in [0x01, 0x40, 0xC0, 0xFF] {
            let mut damaged = request.clone();
            damaged[at] ^= bits;
            assert!(answer(&damaged).is_none_or(|bytes| bytes.len() <= 512), "byte {at}");
        }
    }
}

#[test]
fn a_response_that_is_too_long_loses_the_additional_records_first() {
    let asyncs = |count: u8| Topology {
        asyncs: (0..count)
            .map(|n| member(&format!("a-long-name-of-an-instance-{n}"), &format!("10.0.1.{n}")))
            .collect(),
        ..cluster()
    };
    let sized = |bytes: Option<u16>| {
        let mut request = question("_postgresql._tcp.replica.main.db.internal", RecordType::SRV);
        request.edns = bytes.map(|bytes| {
            let mut edns = Edns::new();
            edns.set_max_payload(bytes);
            edns
        });
        request
    };
    #[rustfmt::skip]
    let cases = [
        // asyncs  EDNS        transport        truncated  answers  additional
        (1,        None,       Transport::Udp,  false,     2,       2),
        (5,        None,       Transport::Udp,  false,     6,       0), // fits without them
        (20,       None,       Transport::Udp,  true,      0,       0),
        (5,        Some(4096), Transport::Udp,  false,     6,       6),
        (5,        Some(0),    Transport::Udp,  false,     6,       0), // 512 at least
        (40,       Some(4096), Transport::Udp,  true,      0,       0), // 1232 at most
        (40,       None,       Transport::Tcp,  false,     41,      41),
    ];
    for (count, bytes, transport, truncated, answers, additional) in cases {
        let request = sized(bytes).to_vec().unwrap();
        let encoded = respond(&zone(), Some(&asyncs(count)), &request, transport).unwrap();
        let got = Message::from_vec(&encoded).unwrap();
        let what = format!("{count} {bytes:?} {transport:?}: {} bytes", encoded.len());
        assert_eq!(got.metadata.truncation, truncated, "{what}");
        assert_eq!((got.answers.len(), got.additionals.len()), (answers, additional), "{what}");
        assert_eq!(got.edns.is_some(), bytes.is_some(), "{what}");
        if transport == Transport::Udp {
            assert!(encoded.len() <= bytes.map_or(512, |_| 1232), "{what}");
        }
    }
}
