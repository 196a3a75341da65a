//! What may be said about TLS, and what goes together.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::{Config, ConfigError, Settings};
use crate::listener::Listener;

/// Files of TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Our certificate and those between it and its authority (PEM).
    pub cert: PathBuf,
    /// Its key (PEM), in a file of mode 0600.
    pub key: PathBuf,
    /// Clients need a certificate of these (PEM); none: they need none.
    pub client_ca: Option<PathBuf>,
}

/// What a port does about encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Is not offered
    Disable,
    /// Is the client's choice
    Allow,
    /// Is needed
    Require,
}

/// Towards servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    pub rule: ServerRule,
    /// Whom we believe (PEM); none where nobody is asked.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How servers are spoken to that are not spoken to in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerRule {
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What `server_tls` may be: libpq's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ServerMode {
    /// In clear
    Disable,
    /// Encrypted where the server can; nobody is verified
    Prefer,
    /// Encrypted; nobody is verified
    Require,
    /// Encrypted, and signed for by server_ca
    VerifyCa,
    /// The same, and for the very host
    VerifyFull,
}

impl Config {
    /// What a port does about encryption.
    pub fn encryption(&self, listener: Listener) -> Encryption {
        match listener {
            Listener::Write => self.write_tls,
            Listener::Read => self.read_tls,
        }
    }
}

impl Settings {
    /// How servers are spoken to; none: in clear.
    pub(super) fn server_tls(&self) -> Result<Option<ServerTls>, ConfigError> {
        let ca = self.server_ca.clone();
        let identity = match (&self.server_cert, &self.server_key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(ConfigError::HalfPair { cert: "server_cert", key: "server_key" });
            }
        };
        let named = ca.is_some() || identity.is_some();
        let rule = match self.server_tls {
            None if named => ServerRule::VerifyFull,
            None => return Ok(None),
            Some(ServerMode::Disable) if named => return Err(ConfigError::ServersInClear),
            Some(ServerMode::Disable) => return Ok(None),
            Some(ServerMode::Prefer) => ServerRule::Prefer,
            Some(ServerMode::Require) => ServerRule::Require,
            Some(ServerMode::VerifyCa) => ServerRule::VerifyCa,
            Some(ServerMode::VerifyFull) => ServerRule::VerifyFull,
        };
        match (rule, &ca) {
            (ServerRule::VerifyCa | ServerRule::VerifyFull, None) => Err(ConfigError::NoServerCa),
            (ServerRule::Prefer | ServerRule::Require, Some(_)) => Err(ConfigError::CaUnused),
            _ => Ok(Some(ServerTls { rule, ca, identity })),
        }
    }

    /// The files, and what the write port and the read port do.
    pub(super) fn client_tls(
        &self,
    ) -> Result<(Option<ClientTls>, Encryption, Encryption), ConfigError> {
        let files = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Some(ClientTls {
                cert: cert.clone(),
                key: key.clone(),
                client_ca: self.tls_client_ca.clone(),
            }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(ConfigError::HalfPair { cert: "tls_cert", key: "tls_key" });
            }
        };
        let port = |key, said: Option<Encryption>| match (&files, said) {
            (None, Some(Encryption::Allow | Encryption::Require)) => {
                Err(ConfigError::NoCertificate { key })
            }
            (None, _) => Ok(Encryption::Disable),
            // Whoever asks for certificates does not want clients that come without.
            (Some(ClientTls { client_ca: Some(_), .. }), Some(Encryption::Allow)) => {
                Err(ConfigError::Bypass { key })
            }
            (Some(ClientTls { client_ca: Some(_), .. }), None) => Ok(Encryption::Require),
            (Some(_), said) => Ok(said.unwrap_or(Encryption::Allow)),
        };
        let (write, read) = (port("write_tls", self.write_tls)?, port("read_tls", self.read_tls)?);
        if files.is_none() && self.tls_client_ca.is_some() {
            return Err(ConfigError::NoCertificate { key: "tls_client_ca" });
        }
        Ok((files, write, read))
    }
}
