//! Why a configuration is refused: one variant for each refusal.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use dugong_topology::{Address, InstanceId};

/// A configuration file that is refused: a sentence that begins with the file's name.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct ConfigError {
    pub path: PathBuf,
    pub problem: ConfigProblem,
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigProblem {
    #[error("cannot be read: {error}")]
    Unreadable { error: io::Error },
    /// No TOML, a value of the wrong form, or a required key that is missing.
    #[error("line {line}: {message}")]
    Malformed { line: usize, message: String },
    /// One variable of the environment.
    #[error("the environment's {variable}: {message}")]
    Variable { variable: String, message: String },
    #[error("the environment has an unknown variable {variable}{nearest}")]
    UnknownVariable { variable: String, nearest: String },
    /// A value of the wrong form, or a missing key, once the environment has had its say.
    #[error("with {variables} of the environment: {message}")]
    Overridden { variables: String, message: String },
    #[error("{word:?} chooses nothing: write key=value; known are {known}")]
    NotChosen { word: String, known: String },
    #[error("{key}: {message}")]
    Chosen { key: String, message: String },
    #[error("unknown key \"{key}\" {section}{nearest}")]
    UnknownKey { key: String, section: String, nearest: Nearest },
    #[error(
        "cluster = \"{text}\" is no name of a cluster: use a lower-case letter, then lower-case \
         letters, digits and dashes, at most 48 characters"
    )]
    ClusterName { text: String },
    #[error("{key} = \"{}\" is relative: write the whole path, from / on", value.display())]
    NotAbsolute { key: &'static str, value: PathBuf },
    #[error(
        "bootstrap_size = {value} and one_node = true contradict each other: keep bootstrap_size for \
         a cluster, or one_node for a primary without a sync"
    )]
    OneNodeOf { value: usize },
    #[error("postgres.memory = {value:?} is no size of at least 64MB: write 512MB or 16GB")]
    Memory { value: String },
    #[error(
        "wal_level = {value:?} in [postgres] settings has too little for standbys: replica, or logical"
    )]
    WalLevel { value: String },
    #[error("bootstrap_size = {value} is out of range: 2 to 9 instances make a cluster")]
    BootstrapSize { value: usize },
    #[error("{key} in [bootstrap] is for method = \"{method}\": remove it, or choose that method")]
    OtherMethod { key: &'static str, method: &'static str },
    #[error("[bootstrap] with method = \"{method}\" needs the key {key}")]
    MethodNeeds { key: &'static str, method: &'static str },
    #[error(
        "bootstrap.method = \"adopt\" and repair.keep_diverged = 0 do not go together: should another \
         instance begin the cluster first, a copy of it would replace what was adopted"
    )]
    AdoptsWithoutKeeping,
    #[error("bootstrap.primary: {why}")]
    Primary { why: String },
    #[error("{key} in [store] is for kind = \"{kind}\": remove it, or choose that kind")]
    OtherStore { key: &'static str, kind: &'static str },
    #[error("[store] of kind \"{kind}\" needs the key {key}")]
    StoreNeeds { key: &'static str, kind: &'static str },
    #[error(
        "store.endpoints: {endpoint:?} is no member of etcd: write http://host:port, or \
         https://host:port for all of them"
    )]
    Endpoint { endpoint: String },
    #[error("{one} without {other}: the two belong together")]
    Alone { one: &'static str, other: &'static str },
    #[error(
        "[store]: https:// in endpoints, and ca with the certificates that are trusted, belong \
         together; cert and key need both"
    )]
    EtcdTls,
    #[error("{key} = \"{}\" is out of range: {} to {}", text(value), text(shortest), text(longest))]
    OutOfRange { key: &'static str, value: Duration, shortest: Duration, longest: Duration },
    #[error(
        "{key} = \"{}\" is too long beside {other} = \"{}\": {reason}",
        text(value),
        text(limit)
    )]
    TooLong {
        key: &'static str,
        value: Duration,
        other: &'static str,
        limit: Duration,
        reason: &'static str,
    },
    #[error("{key} and {other} are both {listen}: give each a port of its own")]
    SameListener { key: &'static str, other: &'static str, listen: Address },
    #[error(
        "dns.zone = \"{text}\" is no zone: write labels of letters, digits and dashes with dots \
         between them, at most 120 characters, as in dugong.internal"
    )]
    Zone { text: String },
    #[error(
        "instance = \"{instance}\" is what the zone calls a role: give the instance another name, \
         or remove [dns]"
    )]
    InstanceLikeRole { instance: InstanceId },
    #[error(
        "{key} = \"{listen}\" is within the zone \"{zone}\", which is answered from such addresses: \
         write an address, or a name outside of the zone"
    )]
    WithinZone { key: &'static str, listen: Address, zone: String },
    #[error("{key} = \"{listen}\" is a wildcard: others are told this address, so name one")]
    Wildcard { key: &'static str, listen: Address },
    #[error(
        "postgres.tls_cert, tls_key and tls_ca belong together: PostgreSQL needs the first two, and \
         its standbys the third; write all of them, or none"
    )]
    TlsInParts,
    #[error(
        "postgres.plain_networks says who needs no TLS, but without tls_cert nobody does: remove it, \
         or write its networks into postgres.networks"
    )]
    NothingButPlain,
    #[error(
        "postgres.replication_auth = \"certificate\" needs TLS: set tls_cert, tls_key and tls_ca in \
         [postgres]"
    )]
    CertificatesWithoutTls,
    #[error("postgres.settings: {name} is set by Dugong ({reason}): remove it")]
    OwnedSetting { name: String, reason: &'static str },
    #[error(
        "postgres.settings: {name:?} is no name of a setting: letters, digits, underscores, and \
         a dot in those of extensions"
    )]
    SettingName { name: String },
    #[error(
        "repair.copy_max_rate = \"{value}\" is no rate from 32kB to 1GB a second: write it as in \
         50MB, or remove it for no limit"
    )]
    CopyMaxRate { value: String },
    #[error("repair.keep_diverged = {value} is out of range: 0 to {most}")]
    KeepDiverged { value: usize, most: usize },
    #[error("postgres.settings: the value of {name} has a line break or a NUL")]
    SettingValue { name: String },
}

/// What was probably meant by an unknown key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nearest {
    /// A key of the same section.
    Spelling(&'static str),
    /// The same key in another section; empty: at the top of the file.
    Section(&'static str),
    /// Nothing near; the keys of the section.
    None(&'static [&'static str]),
}

impl std::fmt::Display for Nearest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Spelling(key) => write!(f, "; did you mean \"{key}\"?"),
            Self::Section("") => f.write_str("; it belongs at the top of the file"),
            Self::Section(section) => write!(f, "; it belongs in [{section}]"),
            Self::None(keys) => write!(f, "; known there are {}", keys.join(", ")),
        }
    }
}

impl ConfigProblem {
    /// A refusal of the TOML reader, with its place in `text`.
    pub(super) fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Self::Malformed { line, message: error.message().trim().replace('\n', ", ") }
    }
}

/// A duration as the file says it.
fn text(span: &Duration) -> humantime::FormattedDuration {
    humantime::format_duration(*span)
}
