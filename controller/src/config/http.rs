//! `[http]`: where this controller answers, and whom.

use std::path::PathBuf;

use dugong_topology::Address;
use serde::Deserialize;

use super::error::ConfigProblem;

/// `[http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Host and port; others reach the controller there, so it is no wildcard. Required.
    pub listen: Address,
    /// `tls_cert` and `tls_key`: HTTPS with this machine's certificate and its key, PEM.
    pub tls: Option<HttpTls>,
    /// Whoever has this token may change things, over TLS or from this machine.
    pub token_file: Option<PathBuf>,
    /// Reading needs this token, or the other one. None: everybody may read.
    pub read_token_file: Option<PathBuf>,
}

/// HTTPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTls {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// `client_ca`: who has a certificate of this CA may read and change things.
    pub client_ca: Option<PathBuf>,
}

/// What the section may say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    pub(super) listen: Address,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    token_file: Option<PathBuf>,
    read_token_file: Option<PathBuf>,
}

impl RawHttp {
    pub(super) fn checked(self) -> Result<HttpConfig, ConfigProblem> {
        let Self { listen, tls_cert, tls_key, client_ca, token_file, read_token_file } = self;
        let paths = [
            ("http.tls_cert", &tls_cert),
            ("http.tls_key", &tls_key),
            ("http.client_ca", &client_ca),
            ("http.token_file", &token_file),
            ("http.read_token_file", &read_token_file),
        ];
        for (key, path) in paths {
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                return Err(ConfigProblem::NotAbsolute { key, value: path.clone() });
            }
        }
        let alone = |one, other| ConfigProblem::Alone { one, other };
        let tls = match (tls_cert, tls_key) {
            (Some(cert), Some(key)) => Some(HttpTls { cert, key, client_ca }),
            (None, None) if client_ca.is_some() => {
                return Err(alone("http.client_ca", "http.tls_cert"));
            }
            (None, None) => None,
            (Some(_), None) => return Err(alone("http.tls_cert", "http.tls_key")),
            (None, Some(_)) => return Err(alone("http.tls_key", "http.tls_cert")),
        };
        Ok(HttpConfig { listen, tls, token_file, read_token_file })
    }
}
