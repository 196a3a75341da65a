//! The configuration: flags over environment over file over defaults, parsed into something that
//! works.
//!
//! [`Settings`] is what may be said, by flag, in the environment or in the file, under the same names. [`Config`] is what
//! came out, checked; nobody who holds one checks again.
//!
//! **Invariant:** plain data: no sockets, no tasks. A key that is not known is refused, because a
//! misspelt limit must not silently be the default.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dugong_topology::units::parse_duration;
use dugong_topology::{Address, InstanceId, Member};
use serde::{Deserialize, Deserializer};

use crate::relay::crew::EngineChoice;
use crate::route::ReadRules;

mod env;
mod error;
mod keys;
mod name_server;
mod preference;
mod tls;
mod url;

pub use crate::config::error::ConfigError;
pub use crate::config::name_server::{NameServerAddress, NameServerAddressError};
pub use crate::config::preference::{Preferences, Weight, WeightError};
pub use crate::config::tls::{ClientTls, Encryption, ServerMode, ServerRule, ServerTls};
pub use crate::config::url::{ControllerUrl, ControllerUrlError, Place, Scheme};

/// A configuration that works, as far as that can be known before the ports are bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub source: Source,
    pub mode: Mode,
    /// Where names are looked up; none: where the system looks them up.
    pub resolvers: Vec<NameServerAddress>,
    pub listen: IpAddr,
    /// 0: any free port.
    pub write_port: u16,
    pub read_port: u16,
    pub http_port: u16,
    /// TLS for clients; none: it is not offered.
    pub client_tls: Option<ClientTls>,
    pub write_tls: Encryption,
    pub read_tls: Encryption,
    /// TLS to servers; none: they are spoken to in clear.
    pub server_tls: Option<ServerTls>,
    /// The longest that one client waits for a server. Zero: nobody waits.
    pub hold_timeout: Duration,
    /// Clients that may wait at once; the next one gets 53300.
    pub max_held: u32,
    /// From accept to the end of the startup packet.
    pub handshake_timeout: Duration,
    /// For the TCP connection to a server.
    pub connect_timeout: Duration,
    /// How long sessions may go on after the proxy was told to stop.
    pub drain_timeout: Duration,
    pub reads: ReadRules,
    /// Until a standby that came back has its whole share of the reads. Zero: at once.
    pub slow_start: Duration,
    pub preferences: Preferences,
    pub relay_engine: EngineChoice,
    /// Relay threads at most; none: one a core.
    pub relay_threads: Option<NonZero<u32>>,
    /// As the filter of `tracing` understands it; none: the environment's RUST_LOG, or `info`.
    pub log_level: Option<String>,
}

/// Where the topology comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Controllers { urls: Vec<ControllerUrl>, trust: Trust },
    Fixed { primary: Address, replicas: Vec<Address> },
}

/// Files that say which controllers are believed, and what they are told about us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The certificates (PEM) that https:// controllers are verified by.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The token for reading, in a file of mode 0600.
    pub token_file: Option<PathBuf>,
}

/// Standbys whose lag is more, or unknown, take no reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LagLimit {
    pub bytes: u64,
    /// None: however long ago what it shows was written.
    pub time: Option<Duration>,
}

impl LagLimit {
    /// Whether a standby is close enough behind to take reads.
    pub fn allows(self, standby: &Member) -> bool {
        let age = standby.lag_seconds.map(|lag| Duration::from_millis(lag.millis));
        standby.lag_bytes.is_some_and(|lag| lag <= self.bytes)
            && self.time.is_none_or(|limit| age.is_some_and(|age| age <= limit))
    }
}

/// What the read port does while no standby is fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ReadFallback {
    /// Leads to the primary, while that takes writes
    #[default]
    Primary,
    /// Refuses with an error at once
    Refuse,
}

/// What the proxy knows of what goes through it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// PostgreSQL's messages: clients are told why a session ends
    #[default]
    Session,
    /// Nothing: encrypted bytes pass through to the server
    Tcp,
}

/// What may be said, by flag, in the environment or in the file; none: not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A controller of the cluster, http://HOST:PORT, or all that SRV records name,
    /// srv+http://_dugong._tcp.CLUSTER.ZONE; repeat it, best for all of them
    #[arg(long = "controller", value_name = "URL")]
    pub controllers: Vec<ControllerUrl>,
    /// The certificates (PEM) that https:// controllers are verified by
    #[arg(long, value_name = "FILE")]
    pub controller_ca: Option<PathBuf>,
    /// Our own certificate (PEM) for controllers, where their client_ca trusts it
    #[arg(long, value_name = "FILE")]
    pub controller_cert: Option<PathBuf>,
    /// Its key (PEM), in a file of mode 0600
    #[arg(long, value_name = "FILE")]
    pub controller_key: Option<PathBuf>,
    /// The token that controllers ask of whoever reads, in a file of mode 0600
    #[arg(long, value_name = "FILE")]
    pub controller_token_file: Option<PathBuf>,
    /// Instead of controllers: the one server that takes writes
    #[arg(long, value_name = "HOST:PORT")]
    pub primary: Option<Address>,
    /// With --primary: a server for reads; may be repeated
    #[arg(long = "replica", value_name = "HOST:PORT")]
    pub replicas: Vec<Address>,
    /// A name server to look names up with; may be repeated [default: those of /etc/resolv.conf]
    #[arg(long = "resolver", value_name = "IP[:PORT]")]
    pub resolvers: Vec<NameServerAddress>,
    /// What the proxy knows of what goes through it [default: session]
    #[arg(long, value_name = "WHAT")]
    pub mode: Option<Mode>,
    /// The address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub listen: Option<IpAddr>,
    /// Leads to the primary; 0 takes any free port [default: 6432]
    #[arg(long, value_name = "PORT")]
    pub write_port: Option<u16>,
    /// Leads to the standbys [default: 6433]
    #[arg(long, value_name = "PORT")]
    pub read_port: Option<u16>,
    /// Metrics, health and the topology [default: 6434]
    #[arg(long, value_name = "PORT")]
    pub http_port: Option<u16>,
    /// Our certificate (PEM) for clients; exchanged files are served within seconds
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM), in a file of mode 0600
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Clients need a certificate of this authority (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// What the write port does about TLS [default: allow with tls_cert, require with tls_client_ca]
    #[arg(long, value_name = "WHAT")]
    pub write_tls: Option<Encryption>,
    /// What the read port does about TLS [default: as for write_tls]
    #[arg(long, value_name = "WHAT")]
    pub read_tls: Option<Encryption>,
    /// How servers are spoken to [default: disable; verify-full with server_ca]
    #[arg(long, value_name = "MODE")]
    pub server_tls: Option<ServerMode>,
    /// The certificates (PEM) that servers are verified by
    #[arg(long, value_name = "FILE")]
    pub server_ca: Option<PathBuf>,
    /// Our own certificate (PEM) for servers, where they ask for one
    #[arg(long, value_name = "FILE")]
    pub server_cert: Option<PathBuf>,
    /// Its key (PEM), in a file of mode 0600
    #[arg(long, value_name = "FILE")]
    pub server_key: Option<PathBuf>,
    /// The longest that a client waits while there is no server for it [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub hold_timeout: Option<Duration>,
    /// How many clients may wait at once [default: 10000]
    #[arg(long, value_name = "N")]
    pub max_held: Option<u32>,
    /// The longest that a client may take to say what it wants [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub handshake_timeout: Option<Duration>,
    /// The longest that a server may take to accept a connection [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Option<Duration>,
    /// How long sessions may go on after SIGTERM [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Option<Duration>,
    /// How many bytes of WAL a standby may be behind to take reads [default: 16777216]
    #[arg(long, value_name = "BYTES")]
    pub max_lag: Option<u64>,
    /// How old what a standby shows may be for it to take reads [default: any age]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub max_lag_time: Option<Duration>,
    /// Until a standby that came back takes as many reads as the others [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub slow_start: Option<Duration>,
    /// A standby, by its id, that is tried before all others; may be repeated
    #[arg(long, value_name = "ID")]
    pub read_near: Vec<InstanceId>,
    /// How many clients a standby gets for each of another one's, as in pg-2=3; may be repeated [default: 1]
    #[arg(long = "read-weight", value_name = "ID=WEIGHT")]
    pub read_weights: Vec<Weight>,
    /// What the read port does while no standby is fit [default: primary]
    #[arg(long, value_name = "WHAT")]
    pub read_fallback: Option<ReadFallback>,
    /// How bytes are moved [default: auto]
    #[arg(long, value_name = "WHAT")]
    pub relay_engine: Option<EngineChoice>,
    /// How many threads may move bytes [default: one a core]
    #[arg(long, value_name = "N")]
    pub relay_threads: Option<NonZero<u32>>,
    /// error, warn, info, debug or trace [default: RUST_LOG, or info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or says something that is not understood.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Reads the environment: `DUGONG_PROXY_` and the key in capital letters.
    ///
    /// # Errors
    ///
    /// A variable that is not understood.
    pub fn from_environment(
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        env::settings(variables)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let malformed = |error: toml::de::Error| ConfigError::Malformed {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| text[..span.start].lines().count().max(1)),
            message: error.message().to_owned(),
        };
        let table: toml::Table = toml::from_str(text).map_err(malformed)?;
        if let Some(key) = table.keys().find(|key| !keys::KEYS.contains(&key.as_str())) {
            let nearest = keys::nearest(key);
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                key: key.clone(),
                nearest,
            });
        }
        toml::from_str(text).map_err(malformed)
    }

    /// These settings where they say something, and those `below` elsewhere.
    ///
    /// Where the topology comes from is one setting: naming it here replaces all of it below.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        let says_source =
            !self.controllers.is_empty() || self.primary.is_some() || !self.replicas.is_empty();
        let (controllers, primary, replicas) = if says_source {
            (self.controllers, self.primary, self.replicas)
        } else {
            (below.controllers, below.primary, below.replicas)
        };
        Self {
            controllers,
            primary,
            replicas,
            controller_ca: self.controller_ca.or(below.controller_ca),
            controller_cert: self.controller_cert.or(below.controller_cert),
            controller_key: self.controller_key.or(below.controller_key),
            controller_token_file: self.controller_token_file.or(below.controller_token_file),
            resolvers: if self.resolvers.is_empty() { below.resolvers } else { self.resolvers },
            mode: self.mode.or(below.mode),
            listen: self.listen.or(below.listen),
            write_port: self.write_port.or(below.write_port),
            read_port: self.read_port.or(below.read_port),
            http_port: self.http_port.or(below.http_port),
            tls_cert: self.tls_cert.or(below.tls_cert),
            tls_key: self.tls_key.or(below.tls_key),
            tls_client_ca: self.tls_client_ca.or(below.tls_client_ca),
            write_tls: self.write_tls.or(below.write_tls),
            read_tls: self.read_tls.or(below.read_tls),
            server_tls: self.server_tls.or(below.server_tls),
            server_ca: self.server_ca.or(below.server_ca),
            server_cert: self.server_cert.or(below.server_cert),
            server_key: self.server_key.or(below.server_key),
            hold_timeout: self.hold_timeout.or(below.hold_timeout),
            max_held: self.max_held.or(below.max_held),
            handshake_timeout: self.handshake_timeout.or(below.handshake_timeout),
            connect_timeout: self.connect_timeout.or(below.connect_timeout),
            drain_timeout: self.drain_timeout.or(below.drain_timeout),
            max_lag: self.max_lag.or(below.max_lag),
            max_lag_time: self.max_lag_time.or(below.max_lag_time),
            slow_start: self.slow_start.or(below.slow_start),
            read_near: if self.read_near.is_empty() { below.read_near } else { self.read_near },
            read_weights: if self.read_weights.is_empty() {
                below.read_weights
            } else {
                self.read_weights
            },
            read_fallback: self.read_fallback.or(below.read_fallback),
            relay_engine: self.relay_engine.or(below.relay_engine),
            relay_threads: self.relay_threads.or(below.relay_threads),
            log_level: self.log_level.or(below.log_level),
        }
    }
}

impl TryFrom<Settings> for Config {
    type Error = ConfigError;

    fn try_from(said: Settings) -> Result<Self, ConfigError> {
        let (client_tls, write_tls, read_tls) = said.client_tls()?;
        let server_tls = said.server_tls()?;
        let source = match (said.controllers.is_empty(), said.primary) {
            (false, Some(_)) => return Err(ConfigError::TwoSources),
            (_, None) if !said.replicas.is_empty() => return Err(ConfigError::ReplicasAlone),
            (true, None) => return Err(ConfigError::NoSource),
            (false, None) => {
                let identity = match (said.controller_cert, said.controller_key) {
                    (Some(cert), Some(key)) => Some((cert, key)),
                    (None, None) => None,
                    (Some(_), None) | (None, Some(_)) => {
                        let (cert, key) = ("controller_cert", "controller_key");
                        return Err(ConfigError::HalfPair { cert, key });
                    }
                };
                let (ca, token_file) = (said.controller_ca, said.controller_token_file);
                let trust = Trust { ca, identity, token_file };
                trust.fits(&said.controllers)?;
                Source::Controllers { urls: said.controllers, trust }
            }
            (true, Some(primary)) => Source::Fixed { primary, replicas: said.replicas },
        };
        let seconds = |said: Option<Duration>, default| match said {
            Some(duration) => duration,
            None => Duration::from_secs(default),
        };
        let config = Self {
            source,
            mode: said.mode.unwrap_or_default(),
            resolvers: said.resolvers,
            listen: said.listen.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            write_port: said.write_port.unwrap_or(6432),
            read_port: said.read_port.unwrap_or(6433),
            http_port: said.http_port.unwrap_or(6434),
            client_tls,
            write_tls,
            read_tls,
            server_tls,
            hold_timeout: seconds(said.hold_timeout, 30),
            max_held: said.max_held.unwrap_or(10_000),
            handshake_timeout: seconds(said.handshake_timeout, 10),
            connect_timeout: seconds(said.connect_timeout, 2),
            drain_timeout: seconds(said.drain_timeout, 0),
            reads: ReadRules {
                max_lag: LagLimit {
                    bytes: said.max_lag.unwrap_or(16 << 20),
                    time: said.max_lag_time,
                },
                fallback: said.read_fallback.unwrap_or_default(),
            },
            slow_start: seconds(said.slow_start, 10),
            preferences: Preferences { near: said.read_near, weights: said.read_weights },
            relay_engine: said.relay_engine.unwrap_or_default(),
            relay_threads: said.relay_threads,
            log_level: said.log_level,
        };
        config.check_relations()?;
        Ok(config)
    }
}

impl Trust {
    fn fits(&self, urls: &[ControllerUrl]) -> Result<(), ConfigError> {
        for url in urls {
            match url.scheme {
                Scheme::Https if self.ca.is_none() => {
                    return Err(ConfigError::NoCa { url: url.clone() });
                }
                Scheme::Http if self.token_file.is_some() && !url.place.is_here() => {
                    return Err(ConfigError::TokenInClear { url: url.clone() });
                }
                Scheme::Http | Scheme::Https => (),
            }
        }
        Ok(())
    }
}

impl Config {
    fn check_relations(&self) -> Result<(), ConfigError> {
        // No time at all for these would mean that nobody ever gets in.
        for (key, duration) in [
            ("handshake_timeout", self.handshake_timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            if duration.is_zero() {
                return Err(ConfigError::Zero { key });
            }
        }
        let tls =
            [("tls_cert", self.client_tls.is_some()), ("server_tls", self.server_tls.is_some())];
        if let Some((key, _)) = tls.into_iter().find(|(_, said)| *said && self.mode == Mode::Tcp) {
            return Err(ConfigError::TlsPassesThrough { key });
        }
        let ports = [
            ("write_port", self.write_port),
            ("read_port", self.read_port),
            ("http_port", self.http_port),
        ];
        for (index, (second, port)) in ports.into_iter().enumerate() {
            let same = ports[..index].iter().find(|(_, other)| *other == port && port != 0);
            if let Some((first, _)) = same {
                return Err(ConfigError::SamePort { first, second, port });
            }
        }
        let weights = &self.preferences.weights;
        for (index, Weight { id, .. }) in weights.iter().enumerate() {
            if weights[..index].iter().any(|earlier| earlier.id == *id) {
                return Err(ConfigError::TwoWeights { id: id.clone() });
            }
        }
        match &self.log_level {
            Some(level) if level.parse::<tracing_subscriber::EnvFilter>().is_err() => {
                Err(ConfigError::LogLevel { level: level.clone() })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// A duration as people write it, for a key that may be absent.
fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    dugong_topology::units::duration::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests;
