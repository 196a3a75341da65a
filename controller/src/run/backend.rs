//! Opens the store that the configuration names.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use super::Failure;
use crate::config::{Config, EtcdConfig, StoreBackend};
use crate::postgres;
use crate::store::Store;
use crate::store::etcd::{Access, EtcdStore};
use crate::store::sqlite::SqliteStore;

/// Whether it can be reached shows later: the store may be away for a while.
pub(super) fn open(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    let (instance, ttl) = (config.instance.clone(), config.store.session_ttl);
    match &config.store.backend {
        StoreBackend::Sqlite { path } => {
            let open = if postgres::has_served(&config.dir) {
                SqliteStore::open_existing
            } else {
                SqliteStore::open
            };
            Ok(Arc::new(open(path, instance, ttl).map_err(Failure::runtime)?))
        }
        StoreBackend::Etcd(etcd) => {
            let access = access(etcd)?;
            let store = EtcdStore::open(access, &config.cluster, instance, ttl);
            Ok(Arc::new(store.map_err(Failure::runtime)?))
        }
    }
}

fn access(config: &EtcdConfig) -> Result<Access, Failure> {
    let mut options = ConnectOptions::new();
    if let Some((user, file)) = &config.login {
        let password =
            dugong_trust::secret("store.password_file", file).map_err(Failure::runtime)?;
        options = options.with_user(user, password);
    }
    if let Some(ca) = &config.ca {
        let mut tls =
            TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca, "store.ca")?));
        if let Some((cert, key)) = &config.identity {
            let key = dugong_trust::secret("store.key", key).map_err(Failure::runtime)?;
            let cert = read(cert, "store.cert")?;
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        options = options.with_tls(tls);
    }
    Ok(Access {
        endpoints: config.endpoints.clone(),
        prefix: config.prefix.clone(),
        options,
        request_timeout: config.request_timeout,
    })
}

fn read(path: &Path, key: &str) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| unreadable(path, key, &error))
}

fn unreadable(path: &Path, key: &str, error: &std::io::Error) -> Failure {
    Failure::Runtime(format!("{key}: {} cannot be read: {error}", path.display()))
}
