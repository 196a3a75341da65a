//! `[postgres]`: the server that this controller runs, and the settings that stay Dugong's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dugong_topology::{Address, units};
use serde::Deserialize;

use super::error::ConfigProblem;
use super::network::Network;

/// `[postgres]`: the server that this controller runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresConfig {
    /// The directory of `initdb`, `postgres` and their kin; absolute. Default: found by itself.
    pub bin: Option<PathBuf>,
    /// Host and port; clients and standbys reach it there, so it is no wildcard. Required.
    pub listen: Address,
    /// In bytes: what the first settings of a new cluster count on. Default: all that there is.
    pub memory: Option<u64>,
    /// From where clients and standbys may connect, beside this machine. Default: from nowhere.
    pub networks: Vec<Network>,
    /// From where clients may connect without TLS, too, where there is TLS: proxies, which speak
    /// none to servers. Standbys never may. Default: from nowhere.
    pub plain_networks: Vec<Network>,
    /// `tls_cert`, `tls_key`, `tls_ca`; all of them or none. Default: no TLS.
    pub tls: Option<TlsFiles>,
    /// Further settings of the server, name to value, as in `postgresql.conf`. Default: none.
    pub settings: BTreeMap<String, String>,
}

/// The files of TLS, in PEM; absolute. PostgreSQL's user must be able to read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and what comes between it and the CA's.
    pub cert: PathBuf,
    /// Its private key, without a passphrase; of mode 0600.
    pub key: PathBuf,
    /// The certificate of the CA, by which upstreams are verified, and the names in theirs.
    pub ca: PathBuf,
    /// How this instance knows standbys. Default: by the password.
    pub replication_auth: ReplicationAuth,
}

/// How an instance knows standbys, and whoever copies or rewinds, when they come by TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicationAuth {
    /// By the password of the role of replication.
    #[default]
    Password,
    /// By a certificate of the CA.
    Certificate,
}

/// The settings that Dugong writes itself, in lower case, and why.
#[rustfmt::skip]
const OWNED: [(&str, &str); 24] = [
    ("listen_addresses",              "postgres.listen says it"),
    ("port",                          "postgres.listen says it"),
    ("unix_socket_directories",       "the controller talks to its server there"),
    ("ssl",                           "postgres.tls_cert says it"),
    ("ssl_cert_file",                 "postgres.tls_cert says it"),
    ("ssl_key_file",                  "postgres.tls_key says it"),
    ("data_directory",                "dir says it"),
    ("config_file",                   "dir says it"),
    ("hba_file",                      "access follows the instance's role"),
    ("ident_file",                    "access follows the instance's role"),
    ("synchronous_standby_names",     "it decides which commits survive a failover"),
    ("synchronous_commit",            "it decides which commits survive a failover"),
    ("fsync",                         "without it a crash loses acknowledged commits"),
    ("full_page_writes",              "without it a crash can tear pages"),
    ("hot_standby",                   "standbys serve reads"),
    ("primary_conninfo",              "it follows the chain"),
    ("primary_slot_name",             "it follows the chain"),
    ("default_transaction_read_only", "it follows the instance's role"),
    ("recovery_target_timeline",      "standbys follow the primary's newest timeline"),
    ("recovery_target",               "a standby that stops in the past cannot take over"),
    ("recovery_target_lsn",           "a standby that stops in the past cannot take over"),
    ("recovery_target_name",          "a standby that stops in the past cannot take over"),
    ("recovery_target_time",          "a standby that stops in the past cannot take over"),
    ("recovery_target_xid",           "a standby that stops in the past cannot take over"),
];

/// What the section may say, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPostgres {
    bin: Option<PathBuf>,
    listen: Address,
    memory: Option<String>,
    #[serde(default)]
    networks: Vec<Network>,
    #[serde(default)]
    plain_networks: Vec<Network>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    #[serde(default)]
    replication_auth: ReplicationAuth,
    #[serde(default)]
    settings: BTreeMap<String, String>,
}

impl TryFrom<RawPostgres> for PostgresConfig {
    type Error = ConfigProblem;

    fn try_from(raw: RawPostgres) -> Result<Self, ConfigProblem> {
        let RawPostgres { bin, listen, networks, plain_networks, settings, .. } = raw;
        let paths = [
            ("postgres.bin", &bin),
            ("postgres.tls_cert", &raw.tls_cert),
            ("postgres.tls_key", &raw.tls_key),
            ("postgres.tls_ca", &raw.tls_ca),
        ];
        for (key, path) in paths {
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                return Err(ConfigProblem::NotAbsolute { key, value: path.clone() });
            }
        }
        let replication_auth = raw.replication_auth;
        let tls = match (raw.tls_cert, raw.tls_key, raw.tls_ca) {
            (None, None, None) => None,
            (Some(cert), Some(key), Some(ca)) => Some(TlsFiles { cert, key, ca, replication_auth }),
            (Some(_) | None, _, _) => return Err(ConfigProblem::TlsInParts),
        };
        if tls.is_none() && !plain_networks.is_empty() {
            return Err(ConfigProblem::NothingButPlain);
        }
        if tls.is_none() && replication_auth == ReplicationAuth::Certificate {
            return Err(ConfigProblem::CertificatesWithoutTls);
        }
        super::refuse_wildcard("postgres.listen", &listen)?;
        let memory = raw.memory.map(memory).transpose()?;
        for (name, value) in &settings {
            check_setting(name, value)?;
        }
        Ok(Self { bin, listen, memory, networks, plain_networks, tls, settings })
    }
}

/// The least that PostgreSQL is any use with.
const MEMORY_MIN: u64 = 64 << 20;

fn memory(value: String) -> Result<u64, ConfigProblem> {
    let bytes = units::parse_size(&value).ok().filter(|bytes| *bytes >= MEMORY_MIN);
    bytes.ok_or(ConfigProblem::Memory { value })
}

/// Why a setting, named in lower case, is written by Dugong itself; none where it is not.
pub(crate) fn owned(name: &str) -> Option<&'static str> {
    OWNED.iter().find(|(owned, _)| *owned == name).map(|(_, reason)| *reason)
}

/// Whether a `wal_level` has in it what standbys need.
pub(crate) fn feeds_standbys(wal_level: &str) -> bool {
    ["replica", "logical"].iter().any(|level| level.eq_ignore_ascii_case(wal_level.trim()))
}

/// Refuses what would be Dugong's word, or break the file that it is written into.
fn check_setting(name: &str, value: &str) -> Result<(), ConfigProblem> {
    let name = name.to_owned();
    // PostgreSQL takes names in any case.
    let lower = name.to_ascii_lowercase();
    if let Some(reason) = owned(&lower) {
        return Err(ConfigProblem::OwnedSetting { name, reason });
    }
    if lower == "wal_level" && !feeds_standbys(value) {
        return Err(ConfigProblem::WalLevel { value: value.to_owned() });
    }
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !name.split('.').all(is_word) {
        return Err(ConfigProblem::SettingName { name });
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err(ConfigProblem::SettingValue { name });
    }
    Ok(())
}
