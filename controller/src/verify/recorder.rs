//! Clients that write and read while somebody breaks things, and remember what they were told.
//!
//! [`Recorder::start`] makes the run's tables and starts the clients: some at the write address
//! (`client`), one at the read address (`reader`). [`Recorder::finish`] ends them, takes the last
//! looks (`look`), removes the tables and hands the [`History`] over. What the statements are is in
//! `tables`, what a connection says in `connection`.
//!
//! **Invariant:** nothing is judged here. The one decision is what an error means, and that is made
//! in [`outcome`](super::outcome).
//!
//! **Invariant:** every wait has a limit in [`Options`], and the record a bound.

mod client;
mod connection;
pub(super) mod dice;
mod look;
mod reader;
mod shared;
mod tables;

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::{JoinError, JoinSet};
use tokio_postgres::Config;

use self::client::Record;
use self::connection::Door;
use self::reader::Glances;
use self::shared::Shared;
pub use self::shared::{OPERATIONS_MAX, Progress};
use self::tables::Tables;
use super::history::{ClientId, History};
use super::tls::{self, Tls, TlsError};

/// How long a connection attempt may take before the server has accepted it, unless the connection
/// string says otherwise. An address that is cut off must be tried again soon.
const TCP_CONNECT: Duration = Duration::from_secs(3);

/// Where to write, and where to read what may be stale.
#[derive(Clone, Debug)]
pub struct Addresses {
    write: Address,
    read: Option<Address>,
}

/// One address, and how it is spoken to.
#[derive(Clone, Debug)]
struct Address {
    config: Config,
    tls: Tls,
}

/// A connection string that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("{which} address: {why}")]
    Unreadable { which: &'static str, why: String },
    #[error("{which} address: {why}")]
    Tls { which: &'static str, why: TlsError },
}

impl Addresses {
    /// Connection strings or URLs, as libpq has them.
    ///
    /// # Errors
    ///
    /// One of them cannot be read, or asks for what the clients cannot do.
    pub fn parse(write: &str, read: Option<&str>) -> Result<Self, AddressError> {
        let read = read.map(|read| parse("the read", read)).transpose()?;
        Ok(Self { write: parse("the write", write)?, read })
    }
}

fn parse(which: &'static str, dsn: &str) -> Result<Address, AddressError> {
    // The library's own words for the whole say less than those for the cause.
    let unreadable = |error: tokio_postgres::Error| {
        let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        AddressError::Unreadable { which, why }
    };
    let refused = |why| AddressError::Tls { which, why };
    let (rest, words) = tls::split(dsn).map_err(refused)?;
    let tls = Tls::new(&words).map_err(refused)?;
    let mut config: Config = rest.parse().map_err(unreadable)?;
    config.ssl_mode(tls.mode());
    if config.get_application_name().is_none() {
        config.application_name("dugong verify");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(TCP_CONNECT);
    }
    Ok(Address { config, tls })
}

/// What becomes of the tables when the run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    Dropped,
    Kept,
}

/// How much is done, and how long is waited.
#[derive(Clone, Debug)]
pub struct Options {
    /// Clients at the write address, 1 to 64. Default 4.
    pub clients: u16,
    /// Registers in use at a time. Default 4.
    pub registers: u16,
    /// What each client does follows from it; when, does not.
    pub seed: u64,
    /// From the beginning of one operation of a client to that of its next. Default 5 ms.
    pub pace: Duration,
    /// The longest that a client waits for an answer; then its outcome is unknown. Default 15 s.
    pub answer_within: Duration,
    /// The longest that a client waits to be let in. Default 40 s: longer than a proxy holds it.
    pub connect_within: Duration,
    /// The longest that making the tables may take. Default 15 s.
    pub start_within: Duration,
    /// The longest that the last looks may take, all together. Default 60 s.
    pub look_within: Duration,
    /// Default: dropped.
    pub remains: Remains,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clients: 4,
            registers: 4,
            seed: 0,
            pace: Duration::from_millis(5),
            answer_within: Duration::from_secs(15),
            connect_within: Duration::from_secs(40),
            start_within: Duration::from_secs(15),
            look_within: Duration::from_secs(60),
            remains: Remains::Dropped,
        }
    }
}

/// Why a run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{what} must be 1 to {limit}, not {given}")]
    OutOfRange { what: &'static str, given: u16, limit: u16 },
    #[error("the tables cannot be made at the write address: {0}")]
    NoTables(String),
}

/// A client of the recorder panicked: a defect of it, not of what is verified.
#[derive(Debug, thiserror::Error)]
#[error("a recording client failed")]
pub struct RecordError(#[from] JoinError);

/// The most clients, and registers at a time, that a run may have.
pub const CLIENTS_MAX: u16 = 64;

/// A run that goes on. Dropping it ends the clients at once; the tables stay then.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    began: SystemTime,
    write: Door,
    clients: JoinSet<Record>,
    readers: JoinSet<Glances>,
    options: Options,
}

impl Recorder {
    /// Makes the tables and starts the clients.
    ///
    /// # Errors
    ///
    /// The options are out of range, or the tables cannot be made in time.
    pub async fn start(addresses: Addresses, options: Options) -> Result<Self, StartError> {
        let limit = CLIENTS_MAX;
        for (what, given) in [("clients", options.clients), ("registers", options.registers)] {
            if !(1..=limit).contains(&given) {
                return Err(StartError::OutOfRange { what, given, limit });
            }
        }
        let began = SystemTime::now();
        let tables = Tables::of_run(began, options.clients);
        let within = options.connect_within;
        let door = |Address { config, tls }| Door { config, tls, within };
        let write = door(addresses.write);
        tables.make(&write, options.start_within).await.map_err(StartError::NoTables)?;

        let shared = Arc::new(Shared::new(tables, &options));
        let mut clients = JoinSet::new();
        for id in 0..options.clients {
            clients.spawn(client::work(ClientId(id), write.clone(), shared.clone()));
        }
        let mut readers = JoinSet::new();
        if let Some(read) = addresses.read {
            readers.spawn(reader::work(door(read), shared.clone()));
        }
        Ok(Self { shared, began, write, clients, readers, options })
    }

    /// How far the clients are.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared.progress()
    }

    /// Returns when the record has grown to its bound: the clients have ended by themselves.
    pub async fn full(&self) {
        self.shared.stopped().await;
    }

    /// Ends the clients, takes the last looks and removes the tables.
    ///
    /// # Errors
    ///
    /// A client panicked.
    pub async fn finish(mut self) -> Result<History, RecordError> {
        let mut history = History::new(self.began);
        history.ended = self.shared.stop();
        history.full = self.shared.full_since();
        while let Some(record) = self.clients.join_next().await {
            record?.add_to(&mut history);
        }
        while let Some(glances) = self.readers.join_next().await {
            glances?.add_to(&mut history);
        }
        look::look(&self.write, &self.shared, &self.options, &mut history).await;
        Ok(history)
    }

    /// The schema and the tables of this run, for whoever has to remove them by hand.
    #[must_use]
    pub fn tables(&self) -> [String; 2] {
        self.shared.tables.names()
    }
}
