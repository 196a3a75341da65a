//! Why there is no configuration, each in one sentence.

use std::path::PathBuf;

use dugong_topology::InstanceId;

use crate::config::ControllerUrl;
use crate::config::env::variable;
use crate::config::keys::KEYS;

/// Why there is no configuration. Each is a mistake of whoever started the proxy.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}, line {line}: {message}", path.display())]
    Malformed { path: PathBuf, line: usize, message: String },
    #[error("{}: unknown key {key:?}{}", path.display(), suggestion(*nearest))]
    UnknownKey { path: PathBuf, key: String, nearest: Option<&'static str> },
    #[error("unknown variable {variable}{}", suggested_variable(nearest.as_deref()))]
    UnknownVariable { variable: String, nearest: Option<String> },
    #[error("{variable}: {message}")]
    Variable { variable: String, message: String },
    #[error(
        "nothing to connect to: name the controllers (--controller http://HOST:PORT, repeated) or a \
         server (--primary HOST:PORT)"
    )]
    NoSource,
    #[error("controllers and a fixed primary exclude each other: name one or the other")]
    TwoSources,
    #[error("read_weights names {id} twice: give it one weight")]
    TwoWeights { id: InstanceId },
    #[error("{url}: controller_ca must name the certificates that it is verified by")]
    NoCa { url: ControllerUrl },
    #[error("{cert} and {key} belong together")]
    HalfPair { cert: &'static str, key: &'static str },
    #[error(
        "server_tls = \"disable\" encrypts nothing: remove server_ca, server_cert and server_key"
    )]
    ServersInClear,
    #[error(
        "servers can only be verified by an authority: set server_ca, or server_tls = \"require\""
    )]
    NoServerCa,
    #[error(
        "server_ca says whom to believe, but this server_tls asks nobody: write \"verify-full\" (or \
         \"verify-ca\")"
    )]
    CaUnused,
    #[error("{key} needs a certificate for clients: set tls_cert and tls_key")]
    NoCertificate { key: &'static str },
    #[error(
        "{key} = \"allow\" lets clients in that have no certificate of tls_client_ca, by coming \
         without TLS: write \"require\""
    )]
    Bypass { key: &'static str },
    #[error("{url}: the token of controller_token_file would be sent in clear; write https")]
    TokenInClear { url: ControllerUrl },
    #[error(
        "mode = \"tcp\" passes encrypted bytes on as they are: remove {key}, the server's own \
         certificate is what clients see"
    )]
    TlsPassesThrough { key: &'static str },
    #[error("replicas need a primary beside them: add --primary HOST:PORT")]
    ReplicasAlone,
    #[error("{key} must be longer than nothing")]
    Zero { key: &'static str },
    #[error("{first} and {second} are both {port}: each listener needs a port of its own")]
    SamePort { first: &'static str, second: &'static str, port: u16 },
    #[error("{level:?} is no log level: use error, warn, info, debug or trace")]
    LogLevel { level: String },
}

fn suggestion(nearest: Option<&str>) -> String {
    match nearest {
        Some(key) => format!(", did you mean {key:?}?"),
        None => format!("; the known ones are {}", KEYS.join(", ")),
    }
}

fn suggested_variable(nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!(", did you mean {nearest}?"),
        None => format!("; the known ones are {}", KEYS.map(variable).join(", ")),
    }
}
