//! What is asked of each contender, and how it is counted.

use crate::proxies::contenders::{Contender, Mode, Pooling, Side, Splice};
use crate::proxies::pgbench::{Connections, Encryption, Load, Protocol, Script};

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// In words, for the tables.
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    pub(crate) work: Work,
    /// Who is of interest.
    pub(crate) field: Field,
}

/// What one of something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Query,
    Transaction,
    Connection,
    Megabyte,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Transaction => "transaction",
            Self::Connection => "connection",
            Self::Megabyte => "MB",
        }
    }

    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Query => "queries",
            Self::Transaction => "transactions",
            Self::Connection => "connections",
            Self::Megabyte => "MB",
        }
    }
}

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    Pgbench(Load),
    /// The same, while one more client asks for far more than it reads.
    BesideSlowReader(Load),
    /// The same, while one more client reads far more, as fast as it comes.
    BesideBulk(Load),
    CopyOut {
        row_bytes: usize,
        rows: usize,
    },
    CopyIn {
        row_bytes: usize,
        rows: usize,
    },
}

impl Work {
    /// Whether all that a contender does is what is counted.
    pub(crate) fn is_alone(self) -> bool {
        match self {
            Self::Pgbench(_) | Self::CopyOut { .. } | Self::CopyIn { .. } => true,
            Self::BesideSlowReader(_) | Self::BesideBulk(_) => false,
        }
    }
}

/// From so many clients on, a measurement is as many times as long.
///
/// A server process that has just begun needs for its first query what hundreds of later ones need. Of
/// so many processes that is a good part of two seconds; PgBouncer's live on from one measurement to
/// the next.
const CROWD: u32 = 100;
const CROWD_TIMES: u64 = 5;

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// Everybody, without HAProxy's splicing, which is for bulk.
    Queries,
    /// Everybody but HAProxy without splicing on two threads.
    Bulk,
    /// Direct, peers and our sessions: a floor has nothing to tell.
    Peers,
}

impl Workload {
    /// Whether `contender` is to be measured by it.
    pub(crate) fn takes(&self, contender: Contender) -> bool {
        let fits = match contender {
            Contender::Haproxy { splice: Splice::Auto, .. } => self.field == Field::Bulk,
            Contender::Dugong { mode: Mode::Tcp, .. } => self.field != Field::Peers,
            // Statements that were prepared are unknown to the next connection (before 1.21).
            Contender::Pgbouncer(Pooling::Transaction) => !self.prepares(),
            Contender::Direct
            | Contender::Floor { .. }
            | Contender::Haproxy { splice: Splice::No, .. }
            | Contender::Pgbouncer(Pooling::Session)
            | Contender::Dugong { mode: Mode::Session, .. } => true,
        };
        fits && !(self.field == Field::Peers && contender.side() == Some(Side::Floor))
    }

    /// How many times the usual time one measurement takes.
    pub(crate) fn times(&self) -> u64 {
        match self.work {
            Work::Pgbench(Load { clients: CROWD.., connections: Connections::Kept, .. }) => {
                CROWD_TIMES
            }
            Work::Pgbench(_)
            | Work::BesideSlowReader(_)
            | Work::BesideBulk(_)
            | Work::CopyOut { .. }
            | Work::CopyIn { .. } => 1,
        }
    }

    fn prepares(&self) -> bool {
        match self.work {
            Work::Pgbench(load) | Work::BesideSlowReader(load) | Work::BesideBulk(load) => {
                load.protocol == Protocol::Prepared
            }
            Work::CopyOut { .. } | Work::CopyIn { .. } => false,
        }
    }
}

const fn select(clients: u32, protocol: Protocol) -> Load {
    Load {
        script: Script::Select,
        protocol,
        clients,
        connections: Connections::Kept,
        encryption: Encryption::None,
    }
}

const fn queries(name: &'static str, what: &'static str, load: Load) -> Workload {
    let work = Work::Pgbench(load);
    Workload { name, what, unit: Unit::Query, work, field: Field::Queries }
}

/// All of them, in the order of the tables.
pub(crate) const ALL: &[Workload] = &[
    queries("select-1", "one row by its key, prepared, 1 client", select(1, Protocol::Prepared)),
    queries("select-8", "the same, 8 clients", select(8, Protocol::Prepared)),
    queries("select-32", "the same, 32 clients", select(32, Protocol::Prepared)),
    queries("select-256", "the same, 256 clients", select(256, Protocol::Prepared)),
    queries("extended-8", "parsed each time, 8 clients", select(8, Protocol::Extended)),
    queries("simple-8", "simple queries, 8 clients", select(8, Protocol::Simple)),
    Workload {
        name: "pipelined-8",
        what: "ten selects sent at once, extended, 8 clients",
        unit: Unit::Query,
        work: Work::Pgbench(Load { script: Script::Pipeline, ..select(8, Protocol::Extended) }),
        field: Field::Queries,
    },
    Workload {
        name: "tpcb-8",
        what: "pgbench's own transaction, prepared, 8 clients",
        unit: Unit::Transaction,
        work: Work::Pgbench(Load { script: Script::TpcbLike, ..select(8, Protocol::Prepared) }),
        field: Field::Peers,
    },
    Workload {
        name: "wide-8",
        what: "100 rows of 500 bytes, prepared, 8 clients",
        unit: Unit::Query,
        work: Work::Pgbench(Load { script: Script::Wide, ..select(8, Protocol::Prepared) }),
        field: Field::Bulk,
    },
    Workload {
        name: "connect-8",
        what: "a connection for each query, simple, 8 clients",
        unit: Unit::Connection,
        work: Work::Pgbench(Load {
            connections: Connections::OnePerTransaction,
            ..select(8, Protocol::Simple)
        }),
        field: Field::Queries,
    },
    queries(
        "tls-8",
        "select-8 over TLS to the client; who does not speak it passes it on",
        Load { encryption: Encryption::Tls, ..select(8, Protocol::Prepared) },
    ),
    Workload {
        name: "tls-connect-8",
        what: "connect-8 over TLS to the client",
        unit: Unit::Connection,
        work: Work::Pgbench(Load {
            connections: Connections::OnePerTransaction,
            encryption: Encryption::Tls,
            ..select(8, Protocol::Simple)
        }),
        field: Field::Peers,
    },
    Workload {
        name: "copy-out",
        what: "COPY TO STDOUT, rows of 8,000 bytes, 1 client",
        unit: Unit::Megabyte,
        work: Work::CopyOut { row_bytes: 8000, rows: 60_000 },
        field: Field::Bulk,
    },
    Workload {
        name: "copy-out-narrow",
        what: "COPY TO STDOUT, rows of 100 bytes, 1 client",
        unit: Unit::Megabyte,
        work: Work::CopyOut { row_bytes: 100, rows: 1_500_000 },
        field: Field::Bulk,
    },
    Workload {
        name: "copy-in",
        what: "COPY FROM STDIN, rows of 8,000 bytes that the server drops, 1 client",
        unit: Unit::Megabyte,
        work: Work::CopyIn { row_bytes: 8000, rows: 40_000 },
        field: Field::Bulk,
    },
    Workload {
        name: "slow-reader",
        what: "select-8 beside one client that reads 480 MB at 10 MB/s",
        unit: Unit::Query,
        work: Work::BesideSlowReader(select(8, Protocol::Prepared)),
        field: Field::Peers,
    },
    Workload {
        name: "bulk-beside",
        what: "select-8 beside one client that reads as fast as it can",
        unit: Unit::Query,
        work: Work::BesideBulk(select(8, Protocol::Prepared)),
        field: Field::Peers,
    },
];
