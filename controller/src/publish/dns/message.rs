//! From the bytes of a request to the bytes of the response: everything but the sockets.
//!
//! **Invariant:** pure, and nothing that a client sends is followed up: no recursion, no transfer,
//! no update. A response is no longer than its transport and the client allow; what does not fit
//! loses the additional records first, and then is truncated, which sends the client to TCP.
//!
//! Source: RFC 1035, section 4; RFC 6891 (EDNS); RFC 2181, section 9 (truncation); RFC 8906.

use dugong_topology::Topology;
use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::answer::{Answer, Question, answer};
use super::zone::{Asked, Zone};

/// What every network carries in one piece (DNS flag day 2020).
const EDNS_BYTES_MAX: u16 = 1232;

/// Over UDP without EDNS.
const PLAIN_BYTES_MAX: u16 = 512;

/// The version of EDNS that we speak.
const EDNS_VERSION: u8 = 0;

/// How the request came, and the response goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The response to `request`; none where a response could do harm.
pub(super) fn respond(
    zone: &Zone,
    topology: Option<&Topology>,
    request: &[u8],
    transport: Transport,
) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(request)).ok()?;
    // Two servers must not talk to each other for ever.
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let Ok(request) = Message::from_vec(request) else {
        return encode(&empty(&header.metadata, ResponseCode::FormErr), u16::MAX);
    };
    let mut response = empty(&header.metadata, ResponseCode::NoError);
    response.add_queries(request.queries.iter().cloned());
    let mut bytes_max = match transport {
        Transport::Udp => PLAIN_BYTES_MAX,
        Transport::Tcp => u16::MAX,
    };
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_version(EDNS_VERSION).set_max_payload(EDNS_BYTES_MAX);
        response.set_edns(edns);
        if transport == Transport::Udp {
            bytes_max = asked.max_payload().clamp(PLAIN_BYTES_MAX, EDNS_BYTES_MAX);
        }
    }
    let Answer { code, answers, authorities, additionals } =
        judge(zone, topology, &header.metadata, &request);
    response.metadata.response_code = code;
    response.metadata.authoritative =
        matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
    response.add_answers(answers).add_authorities(authorities).add_additionals(additionals);
    encode(&response, bytes_max)
}

/// The answer, or why there is none.
fn judge(zone: &Zone, topology: Option<&Topology>, header: &Metadata, request: &Message) -> Answer {
    if header.op_code != OpCode::Query {
        return Answer::empty(ResponseCode::NotImp);
    }
    if request.version() > EDNS_VERSION {
        return Answer::empty(ResponseCode::BADVERS);
    }
    let [query] = request.queries.as_slice() else {
        return Answer::empty(ResponseCode::FormErr);
    };
    let asked = zone.asked(&query.name);
    let in_class = matches!(query.query_class, DNSClass::IN | DNSClass::ANY);
    let transfer = matches!(query.query_type, RecordType::AXFR | RecordType::IXFR);
    if asked == Asked::Outside || !in_class || transfer {
        return Answer::empty(ResponseCode::Refused);
    }
    let Some(topology) = topology else { return Answer::empty(ResponseCode::ServFail) };
    let kind = query.query_type;
    let turn = usize::from(header.id);
    answer(zone, topology, &Question { name: &query.name, asked, kind, turn }).unwrap_or_else(
        |error| {
            tracing::error!(%error, name = %query.name, "no DNS answer could be made");
            Answer::empty(ResponseCode::ServFail)
        },
    )
}

fn empty(request: &Metadata, code: ResponseCode) -> Message {
    let mut response = Message::new(request.id, MessageType::Response, request.op_code);
    response.metadata = Metadata::response_from_request(request);
    response.metadata.response_code = code;
    response
}

/// Whole, or without what may be left out, or truncated.
fn encode(whole: &Message, bytes_max: u16) -> Option<Vec<u8>> {
    let encoded = |message: &Message| match message.to_vec() {
        Ok(bytes) => Some(bytes).filter(|bytes| bytes.len() <= usize::from(bytes_max)),
        Err(error) => {
            tracing::debug!(%error, "a DNS response could not be encoded whole");
            None
        }
    };
    encoded(whole).or_else(|| {
        let mut less = whole.clone();
        less.additionals.clear();
        encoded(&less).or_else(|| {
            less.answers.clear();
            less.authorities.clear();
            less.metadata.truncation = true;
            encoded(&less)
        })
    })
}
