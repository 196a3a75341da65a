//! A real name server for `dugong.test`, whose records a test changes while it runs.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use dugong_tests::free_port;
use hickory_server::Server;
use hickory_server::proto::rr::rdata::{SOA, SRV};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType, RrKey};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneHandler, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

const ZONE: &str = "dugong.test.";

/// In seconds; the proxy makes it as long as its shortest.
const TTL: u32 = 0;

pub(crate) struct NameServer {
    port: u16,
    zone: Arc<InMemoryZoneHandler>,
    /// None: away.
    server: Option<Server<Catalog>>,
}

impl NameServer {
    pub(crate) async fn start() -> Self {
        let origin = name("dugong.test");
        let zone: InMemoryZoneHandler =
            InMemoryZoneHandler::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
        let soa = SOA::new(name("ns.dugong.test"), name("root.dugong.test"), 1, 1, 1, 1, 1);
        assert!(zone.upsert(Record::from_rdata(origin, 1, RData::SOA(soa)), 1).await);
        let mut server = Self { port: 0, zone: Arc::new(zone), server: None };
        // The next one, where only TCP was free.
        while server.server.is_none() {
            server.port = free_port();
            server.come_back().await;
        }
        server
    }

    /// As a flag has it.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Nobody is answered any more.
    pub(crate) async fn go_away(&mut self) {
        let mut server = self.server.take().expect("it is there");
        server.shutdown_gracefully().await.unwrap();
    }

    /// Answers, with the records that there are by now.
    pub(crate) async fn come_back(&mut self) {
        let Ok(udp) = UdpSocket::bind(("127.0.0.1", self.port)).await else { return };
        let Ok(tcp) = TcpListener::bind(("127.0.0.1", self.port)).await else { return };
        let mut catalog = Catalog::new();
        let zone: Arc<dyn ZoneHandler> = Arc::clone(&self.zone) as _;
        catalog.upsert(LowerName::from_str(ZONE).unwrap(), vec![zone]);
        let mut server = Server::new(catalog);
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 64);
        self.server = Some(server);
    }

    pub(crate) fn is_there(&self) -> bool {
        self.server.is_some()
    }

    /// From now on the host has exactly these addresses.
    pub(crate) async fn host(&self, host: &str, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let data = |v6: bool| addresses.iter().filter(move |ip| ip.is_ipv6() == v6);
        self.set(host, RecordType::A, data(false).map(|ip| RData::from(*ip)).collect()).await;
        self.set(host, RecordType::AAAA, data(true).map(|ip| RData::from(*ip)).collect()).await;
    }

    /// From now on the service is at exactly these hosts and ports.
    pub(crate) async fn service(&self, service: &str, places: &[(&str, u16)]) {
        let srv = |(host, port): &(&str, u16)| RData::SRV(SRV::new(0, 10, *port, name(host)));
        self.set(service, RecordType::SRV, places.iter().map(srv).collect()).await;
    }

    async fn set(&self, owner: &str, kind: RecordType, data: Vec<RData>) {
        let owner = name(owner);
        self.zone.records_mut().await.remove(&RrKey::new(owner.clone().into(), kind));
        for data in data {
            assert!(self.zone.upsert(Record::from_rdata(owner.clone(), TTL, data), 1).await);
        }
    }
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}
