//! The controller's configuration file, `controller.toml`.
//!
//! [`Config::load`] reads and checks it whole: what starts is what works. The smallest file:
//!
//! ```toml
//! instance = "pg-1"
//! dir = "/var/lib/dugong/pg-1"
//! credentials = "/var/lib/dugong/credentials.json"
//!
//! [postgres]
//! listen = "127.0.0.1:20001"
//!
//! [http]
//! listen = "127.0.0.1:20011"
//!
//! [store]
//! path = "/var/lib/dugong/store.db"
//! ```
//!
//! **Invariant:** plain data only, no socket and no handle; a key that is not known is an error,
//! since a misspelt timeout must not be a silent default.

mod bootstrap;
pub mod chosen;
mod dns;
mod env;
mod error;
mod foreign;
mod http;
mod keys;
mod network;
mod postgres;
mod repair;
mod store;
mod timings;
mod understood;

use std::path::{Path, PathBuf};

use dugong_machine::Bootstrap;
use dugong_topology::{Address, InstanceId};
use serde::Deserialize;

pub use bootstrap::Origin;
pub use dns::DnsConfig;
pub use env::is_override;
pub use error::{ConfigError, ConfigProblem, Nearest};
pub use foreign::Foreign;
pub use http::{HttpConfig, HttpTls};
pub use network::{Network, NetworkError};
pub use postgres::{PostgresConfig, ReplicationAuth, TlsFiles};
pub(crate) use postgres::{feeds_standbys, owned as owned_setting};
pub use repair::{CopyRate, OnDamage, RepairConfig};
pub use store::{EtcdConfig, StoreBackend, StoreConfig};
pub use timings::Timings;

/// What one controller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The cluster's name, in the letters of an instance id. Default `main`.
    pub cluster: String,
    /// The stable name of this instance. Required.
    pub instance: InstanceId,
    /// The instance's own directory (data, sockets, logs); absolute. Required.
    pub dir: PathBuf,
    /// The file of the cluster's passwords; absolute. Required.
    pub credentials: PathBuf,
    /// `bootstrap_size`: how many instances must be present before a cluster is made of them, 2 to 9,
    /// default 2. Or `one_node = true`: this one makes it, and its commits wait for nobody until a
    /// standby has joined.
    pub bootstrap: Bootstrap,
    /// `[bootstrap]`: where the first data of a new cluster comes from.
    pub origin: Origin,
    pub postgres: PostgresConfig,
    pub http: HttpConfig,
    pub store: StoreConfig,
    /// None: no name server.
    pub dns: Option<DnsConfig>,
    pub timings: Timings,
    pub repair: RepairConfig,
}

impl Config {
    /// Reads and checks a configuration file, with the environment's word over it.
    ///
    /// # Errors
    ///
    /// One sentence that names the file, the key and the way out.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_and_tell(path).map(|(config, _)| config)
    }

    /// The same, with a table of what was understood: every key, its value, where that is from.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn load_and_tell(path: &Path) -> Result<(Self, String), ConfigError> {
        let of = |problem| ConfigError { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path)
            .map_err(|error| of(ConfigProblem::Unreadable { error }))?;
        let overrides = env::overrides(std::env::vars_os()).map_err(of)?;
        Self::parse_with(&text, &overrides).map_err(of)
    }

    /// Whether that would be a configuration file, whatever the environment says.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(text: &str) -> Result<(), ConfigProblem> {
        Self::parse_with(text, &[]).map(|_| ())
    }

    fn parse_with(
        text: &str,
        overrides: &[env::Override],
    ) -> Result<(Self, String), ConfigProblem> {
        let syntax = |error: &toml::de::Error| ConfigProblem::syntax(text, error);
        let mut table: toml::Table = toml::from_str(text).map_err(|error| syntax(&error))?;
        // Before the values: a misspelt key is told as such, not as the absence of the right one.
        keys::check(&table)?;
        for one in overrides {
            one.apply(&mut table);
        }
        let raw: Result<RawConfig, _> = if overrides.is_empty() {
            toml::from_str(text).map_err(|error| syntax(&error)) // It knows the lines.
        } else {
            let variables = overrides.iter().map(|one| one.variable.as_str());
            let variables = variables.collect::<Vec<_>>().join(", ");
            table.clone().try_into().map_err(|error: toml::de::Error| {
                let message = error.to_string().trim().replace('\n', ", ");
                ConfigProblem::Overridden { variables, message }
            })
        };
        Ok((Self::try_from(raw?)?, understood::understood(&table, overrides)))
    }
}

/// What the file may say, before relations are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    #[serde(default = "default_cluster")]
    cluster: String,
    instance: InstanceId,
    dir: PathBuf,
    credentials: PathBuf,
    bootstrap_size: Option<usize>,
    #[serde(default)]
    one_node: bool,
    #[serde(default, rename = "bootstrap")]
    origin: bootstrap::RawBootstrap,
    postgres: postgres::RawPostgres,
    http: http::RawHttp,
    store: store::RawStore,
    dns: Option<dns::RawDns>,
    #[serde(default)]
    timings: timings::RawTimings,
    #[serde(default)]
    repair: repair::RawRepair,
}

fn default_cluster() -> String {
    "main".to_owned()
}

/// Where the file says nothing.
const BOOTSTRAP_SIZE: usize = 2;

impl TryFrom<RawConfig> for Config {
    type Error = ConfigProblem;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigProblem> {
        let RawConfig { cluster, instance, dir, credentials, .. } = raw;
        // The two names meet in the same places: an application_name, a label of a metric.
        if cluster.parse::<InstanceId>().is_err() {
            return Err(ConfigProblem::ClusterName { text: cluster });
        }
        for (key, path) in [("dir", &dir), ("credentials", &credentials)] {
            if !path.is_absolute() {
                return Err(ConfigProblem::NotAbsolute { key, value: path.clone() });
            }
        }
        let bootstrap = size_of_bootstrap(raw.bootstrap_size, raw.one_node)?;
        let repair = raw.repair.checked()?;
        let origin = raw.origin.checked(repair.keep_diverged)?;
        let store = raw.store.checked()?;
        let postgres = PostgresConfig::try_from(raw.postgres)?;
        refuse_wildcard("http.listen", &raw.http.listen)?;
        if postgres.listen == raw.http.listen {
            let (key, other) = ("postgres.listen", "http.listen");
            return Err(ConfigProblem::SameListener { key, other, listen: postgres.listen });
        }
        let others = [("postgres.listen", &postgres.listen), ("http.listen", &raw.http.listen)];
        let dns = raw.dns.map(|dns| dns.checked(&instance, &others)).transpose()?;
        Ok(Self {
            cluster,
            instance,
            dir,
            credentials,
            bootstrap,
            origin,
            postgres,
            http: raw.http.checked()?,
            timings: raw.timings.checked(store.session_ttl)?,
            repair,
            store,
            dns,
        })
    }
}

fn size_of_bootstrap(size: Option<usize>, one_node: bool) -> Result<Bootstrap, ConfigProblem> {
    match (size, one_node) {
        (None, true) => Ok(Bootstrap::OneNode),
        (Some(value), true) => Err(ConfigProblem::OneNodeOf { value }),
        (size, false) => {
            let value = size.unwrap_or(BOOTSTRAP_SIZE);
            // One instance cannot wait for a sync; above 9 a bootstrap would wait for a typing
            // error.
            let range = 2..=9;
            range
                .contains(&value)
                .then_some(Bootstrap::Of(value))
                .ok_or(ConfigProblem::BootstrapSize { value })
        }
    }
}

/// An address is also what others are told: nobody can connect to "everywhere".
fn refuse_wildcard(key: &'static str, listen: &Address) -> Result<(), ConfigProblem> {
    let ip = listen.host.parse::<std::net::IpAddr>();
    if ip.is_ok_and(|ip| ip.is_unspecified()) {
        return Err(ConfigProblem::Wildcard { key, listen: listen.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
