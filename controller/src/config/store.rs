//! `[store]`: where the state record lives.

use std::path::PathBuf;
use std::time::Duration;

use dugong_topology::units;
use serde::{Deserialize, Deserializer};

use super::error::ConfigProblem;

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    pub backend: StoreBackend,
    /// The store ends a session that was not renewed for this long: 1 s to 60 s. Default 3 s. etcd
    /// counts whole seconds, at least two.
    pub session_ttl: Duration,
}

/// `kind`, and the keys that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreBackend {
    /// One file that all controllers of this machine share.
    Sqlite {
        /// Absolute. Required.
        path: PathBuf,
    },
    Etcd(EtcdConfig),
}

/// `kind = "etcd"`: the store of a cluster on many machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// The members, as `http://host:port` or `https://host:port`, all alike. At least one.
    pub endpoints: Vec<String>,
    /// All keys are below `prefix/cluster/`. Default `/dugong`.
    pub prefix: String,
    /// Who logs in, with the password in a file that nobody else may read.
    pub login: Option<(String, PathBuf)>,
    /// The certificates that are trusted, PEM. Required with `https`.
    pub ca: Option<PathBuf>,
    /// `cert` and `key`: this machine's own certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The longest that one member may take to answer: 100 ms to 10 s, and less than half a
    /// session. Default 1 s.
    pub request_timeout: Duration,
}

/// What the section may say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    #[serde(default)]
    kind: RawKind,
    path: Option<PathBuf>,
    endpoints: Option<Vec<String>>,
    prefix: Option<String>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    #[serde(default, deserialize_with = "said")]
    request_timeout: Option<Duration>,
    #[serde(default = "default_session_ttl", with = "units::duration")]
    session_ttl: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawKind {
    #[default]
    Sqlite,
    Etcd,
}

fn said<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    units::duration::deserialize(from).map(Some)
}

fn default_session_ttl() -> Duration {
    Duration::from_secs(3)
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

impl RawStore {
    pub(super) fn checked(self) -> Result<StoreConfig, ConfigProblem> {
        let session_ttl = self.session_ttl;
        let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(60));
        // Below a second a busy disk would end sessions; above a minute nobody wants to wait.
        if !(shortest..=longest).contains(&session_ttl) {
            let key = "store.session_ttl";
            return Err(ConfigProblem::OutOfRange { key, value: session_ttl, shortest, longest });
        }
        let backend = match self.kind {
            RawKind::Sqlite => self.sqlite()?,
            RawKind::Etcd => self.etcd()?,
        };
        Ok(StoreConfig { backend, session_ttl })
    }

    fn sqlite(self) -> Result<StoreBackend, ConfigProblem> {
        let of_etcd = [
            ("endpoints", self.endpoints.is_some()),
            ("prefix", self.prefix.is_some()),
            ("user", self.user.is_some()),
            ("password_file", self.password_file.is_some()),
            ("ca", self.ca.is_some()),
            ("cert", self.cert.is_some()),
            ("key", self.key.is_some()),
            ("request_timeout", self.request_timeout.is_some()),
        ];
        if let Some((key, _)) = of_etcd.into_iter().find(|(_, said)| *said) {
            return Err(ConfigProblem::OtherStore { key, kind: "etcd" });
        }
        let path = self.path.ok_or(ConfigProblem::StoreNeeds { key: "path", kind: "sqlite" })?;
        Ok(StoreBackend::Sqlite { path: absolute("store.path", path)? })
    }

    fn etcd(self) -> Result<StoreBackend, ConfigProblem> {
        if self.path.is_some() {
            return Err(ConfigProblem::OtherStore { key: "path", kind: "sqlite" });
        }
        let endpoints = self.endpoints.unwrap_or_default();
        let Some(first) = endpoints.first() else {
            return Err(ConfigProblem::StoreNeeds { key: "endpoints", kind: "etcd" });
        };
        let secure = first.starts_with("https://");
        if let Some(odd) = endpoints.iter().find(|endpoint| !is_endpoint(endpoint, secure)) {
            return Err(ConfigProblem::Endpoint { endpoint: odd.clone() });
        }
        let both = |one: &'static str, other: &'static str| ConfigProblem::Alone { one, other };
        let login = match (self.user, self.password_file) {
            (Some(user), Some(file)) => Some((user, absolute("store.password_file", file)?)),
            (None, None) => None,
            (Some(_), None) => return Err(both("store.user", "store.password_file")),
            (None, Some(_)) => return Err(both("store.password_file", "store.user")),
        };
        let identity = match (self.cert, self.key) {
            (Some(cert), Some(key)) => {
                Some((absolute("store.cert", cert)?, absolute("store.key", key)?))
            }
            (None, None) => None,
            (Some(_), None) => return Err(both("store.cert", "store.key")),
            (None, Some(_)) => return Err(both("store.key", "store.cert")),
        };
        let ca = self.ca.map(|ca| absolute("store.ca", ca)).transpose()?;
        if secure != ca.is_some() || (identity.is_some() && !secure) {
            return Err(ConfigProblem::EtcdTls);
        }
        let request_timeout = self.request_timeout.unwrap_or(REQUEST_TIMEOUT);
        let key = "store.request_timeout";
        let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(10));
        if !(shortest..=longest).contains(&request_timeout) {
            return Err(ConfigProblem::OutOfRange {
                key,
                value: request_timeout,
                shortest,
                longest,
            });
        }
        if request_timeout * 2 >= self.session_ttl {
            return Err(ConfigProblem::TooLong {
                key,
                value: request_timeout,
                other: "store.session_ttl",
                limit: self.session_ttl,
                reason: "a renewal must have the time for a second member, so a session holds more \
                         than two requests",
            });
        }
        let prefix = self.prefix.unwrap_or_else(|| "/dugong".to_owned());
        Ok(StoreBackend::Etcd(EtcdConfig {
            endpoints,
            prefix,
            login,
            ca,
            identity,
            request_timeout,
        }))
    }
}

/// A URL with a host and a port, and nothing else.
fn is_endpoint(endpoint: &str, secure: bool) -> bool {
    let scheme = if secure { "https://" } else { "http://" };
    let address = endpoint.strip_prefix(scheme).map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    address.is_some_and(|address| address.parse::<dugong_topology::Address>().is_ok())
}

fn absolute(key: &'static str, value: PathBuf) -> Result<PathBuf, ConfigProblem> {
    if value.is_absolute() { Ok(value) } else { Err(ConfigProblem::NotAbsolute { key, value }) }
}
