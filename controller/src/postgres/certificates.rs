//! The files of TLS: whether PostgreSQL will take them, and whether they were exchanged.
//!
//! PostgreSQL says what it does not like in its log only, and after a reload goes on with what it
//! had. So the files are looked at before it sees them, at the start and whenever they change.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dugong_trust::{FileError, Mark, mark, pem};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use tokio::time::{Duration, Instant};

use crate::config::TlsFiles;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// Why PostgreSQL would not take the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "postgres.tls_key: {0} has mode {mode:04o}, so that others may read it: run `chmod 600 {0}`",
        path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "postgres.tls_key: {0} belongs to another user, and PostgreSQL takes no such key: run \
         `chown {user} {0}`",
        path.display()
    )]
    Foreign { path: PathBuf, user: u32 },
    #[error(
        "postgres.tls_key: {} is not the key of the certificate {}: exchange both together",
        key.display(),
        cert.display()
    )]
    Mismatch { key: PathBuf, cert: PathBuf },
}

/// What PostgreSQL asks of the files, and a warning where others could not trust them.
///
/// # Errors
///
/// The first thing that is wrong.
pub(super) fn check(files: &TlsFiles, host: &str) -> Result<(), TlsError> {
    const CERT: (&str, &str) = ("postgres.tls_cert", "certificate");
    const CA: (&str, &str) = ("postgres.tls_ca", "certificate");
    const KEY: (&str, &str) = ("postgres.tls_key", "private key without a passphrase");
    let unreadable = |error| FileError::Unreadable { key: KEY.0, path: files.key.clone(), error };
    is_private(&files.key, &fs::metadata(&files.key).map_err(unreadable)?)?;
    let chain: Vec<CertificateDer<'static>> = pem(CERT.0, CERT.1, &files.cert)?;
    let roots: Vec<CertificateDer<'static>> = pem(CA.0, CA.1, &files.ca)?;
    let mut keys: Vec<PrivateKeyDer<'static>> = pem(KEY.0, KEY.1, &files.key)?;
    let provider = ring::default_provider();
    let malformed = |(key, what): (&'static str, &'static str), path: &Path, why: String| {
        TlsError::File(FileError::Malformed { key, path: path.to_owned(), what, why })
    };
    if let Err(error) = CertifiedKey::from_der(chain.clone(), keys.remove(0), &provider) {
        return Err(if error == InconsistentKeys::KeyMismatch.into() {
            TlsError::Mismatch { key: files.key.clone(), cert: files.cert.clone() }
        } else if let rustls::Error::InvalidCertificate(why) = error {
            malformed(CERT, &files.cert, why.to_string())
        } else {
            malformed(KEY, &files.key, error.to_string())
        });
    }
    if let Err(why) = is_trusted(&chain, roots, host) {
        tracing::warn!(
            "the certificate {} is none that others trust for {host} by {}, so no standby will \
             follow this instance: {why}",
            files.cert.display(),
            files.ca.display()
        );
    }
    Ok(())
}

/// PostgreSQL's own rule: the server's user's or root's, and readable to nobody else.
fn is_private(path: &Path, metadata: &Metadata) -> Result<(), TlsError> {
    let (mode, user) = (metadata.mode() & 0o777, rustix::process::geteuid().as_raw());
    let path = || path.to_owned();
    match metadata.uid() {
        owner if owner == user && mode & 0o077 == 0 => Ok(()),
        // Root may lend it to a group.
        0 if mode & 0o037 == 0 => Ok(()),
        owner if owner == user || owner == 0 => Err(TlsError::Exposed { path: path(), mode }),
        _ => Err(TlsError::Foreign { path: path(), user }),
    }
}

/// Whether another instance that has the same CA would follow this one.
fn is_trusted(
    chain: &[CertificateDer<'static>],
    roots: Vec<CertificateDer<'static>>,
    host: &str,
) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots);
    let provider = ring::default_provider().into();
    let verifier = WebPkiServerVerifier::builder_with_provider(store.into(), provider).build();
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let (end, between) = chain.split_first().ok_or("it is empty")?;
    let verified = verifier.map_err(|error| error.to_string())?.verify_server_cert(
        end,
        between,
        &name,
        &[],
        UnixTime::now(),
    );
    verified.map(|_| ()).map_err(|error| error.to_string())
}

/// Looks now and then whether the files were exchanged.
#[derive(Debug)]
pub(super) struct Certificates {
    files: Option<TlsFiles>,
    host: String,
    /// As the server has them.
    served: [Mark; 3],
    /// As they were when they were last checked.
    checked: [Mark; 3],
    looked: Instant,
    trouble: Option<String>,
}

impl Certificates {
    pub(super) fn new(files: Option<TlsFiles>, host: String) -> Self {
        let marks = marks(files.as_ref());
        Self { files, host, served: marks, checked: marks, looked: Instant::now(), trouble: None }
    }

    /// Calls `reload` if there are other files by now that are good.
    pub(super) fn follow(&mut self, reload: impl FnOnce() -> io::Result<()>) {
        let Some(files) = self.files.as_ref().filter(|_| self.looked.elapsed() > LOOK) else {
            return;
        };
        self.looked = Instant::now();
        let now = marks(Some(files));
        if now == self.served {
            self.trouble = None;
            return;
        }
        if now == self.checked && self.trouble.is_some() {
            return;
        }
        self.checked = now;
        let reloaded = check(files, &self.host)
            .map_err(|error| error.to_string())
            .and_then(|()| reload().map_err(|error| error.to_string()));
        match reloaded {
            Ok(()) => {
                tracing::info!(cert = %files.cert.display(), "the certificate was exchanged");
                self.served = now;
                self.trouble = None;
            }
            Err(why) => {
                tracing::warn!("the new certificate is not taken: {why}");
                self.trouble = Some(format!("the new certificate is not taken: {why}"));
            }
        }
    }

    /// Why new files are not in use, in words.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }
}

fn marks(files: Option<&TlsFiles>) -> [Mark; 3] {
    files.map_or([None; 3], |files| [&files.cert, &files.key, &files.ca].map(|path| mark(path)))
}
