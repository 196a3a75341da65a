//! The cluster's passwords: made before the cluster is, and kept in one file of mode 0600 on each
//! machine.
//!
//! [`Credentials::generate`] and [`Credentials::store_new`] are for whoever makes a cluster; every
//! controller has a [`Keeper`], which follows the file. `exchange` is how they become others while the
//! cluster runs.
//!
//! **Invariant:** no password is ever shown by `Debug`, and a file that others may read is refused.

mod exchange;
mod keeper;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use dugong_trust::FileError;
use serde::{Deserialize, Serialize};

pub use self::exchange::{Exchange, ExchangeId, Kind, Logins, Objection, Stage};
pub use self::keeper::{Keeper, KeeperError};

/// 62 letters and digits to the power of 32: 190 bits.
const PASSWORD_CHARACTERS: usize = 32;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// The roles that Dugong makes in a cluster, and how each of them logs in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Made by initdb; the controllers' own connections.
    pub superuser: Login,
    /// The standbys' connections to their upstreams.
    pub replication: Login,
    /// Reads the verifiers of passwords, for the proxy.
    pub lookup: Login,
    /// A ready-made role that is no superuser, and its database.
    pub application: ApplicationLogin,
    /// The exchange that these come from; none: they are the cluster's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchanged: Option<ExchangeId>,
    /// One that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<Exchange>,
}

/// A role and its password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub name: String,
    pub password: Password,
}

/// A role, its password, and the database that it owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationLogin {
    pub name: String,
    pub password: Password,
    pub database: String,
}

/// A password in clear, hidden from `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// A secret that was read somewhere.
    pub fn of(text: String) -> Self {
        Self(text)
    }

    /// The password itself: for a connection, a SCRAM verifier or a file of mode 0600.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A fresh one, 190 bits of chance: for whatever needs a secret.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn fresh() -> Result<Self, CredentialsError> {
        Self::generate(&mut random()?).map_err(no_random)
    }

    /// Whether it is one that could have been made here: nothing that a file of passwords, or SQL,
    /// would take for something else.
    pub fn is_ours(&self) -> bool {
        self.0.len() == PASSWORD_CHARACTERS && self.0.bytes().all(|byte| ALPHABET.contains(&byte))
    }

    fn generate(random: &mut impl Read) -> io::Result<Self> {
        let mut password = String::with_capacity(PASSWORD_CHARACTERS);
        let mut byte = [0];
        while password.len() < PASSWORD_CHARACTERS {
            random.read_exact(&mut byte)?;
            // 248 = 4 × 62: above it the first letters would be likelier than the last ones.
            if byte[0] < 248 {
                password.push(char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]));
            }
        }
        Ok(Self(password))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Credentials {
    /// Fresh passwords for the roles of a new cluster.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn generate() -> Result<Self, CredentialsError> {
        let mut random = random()?;
        let mut login = |name: &str| {
            let password = Password::generate(&mut random).map_err(no_random)?;
            Ok::<_, CredentialsError>(Login { name: name.to_owned(), password })
        };
        let superuser = login("postgres")?;
        let replication = login("dugong_replication")?;
        let lookup = login("dugong_lookup")?;
        let Login { name, password } = login("app")?;
        let application = ApplicationLogin { name, password, database: "app".to_owned() };
        let (exchanged, exchange) = (None, None);
        Ok(Self { superuser, replication, lookup, application, exchanged, exchange })
    }

    /// Reads the file.
    ///
    /// # Errors
    ///
    /// It cannot be read, others may read it, or it is not what [`Credentials::store_new`] writes.
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        let text = dugong_trust::private_text("credentials", path)?;
        serde_json::from_str(&text)
            .map_err(|error| CredentialsError::Malformed { path: path.to_owned(), error })
    }

    /// Writes a file that does not exist yet: whole, with mode 0600, on disk when this returns.
    ///
    /// # Errors
    ///
    /// The file exists already (it stays as it is), or cannot be written.
    pub fn store_new(&self, path: &Path) -> Result<(), CredentialsError> {
        let unwritable = |error: io::Error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                CredentialsError::Exists { path: path.to_owned() }
            } else {
                CredentialsError::Unwritable { path: path.to_owned(), error }
            }
        };
        // Written under another name and linked, so that a crash leaves no half of a file behind.
        let draft = self.draft(path).map_err(unwritable)?;
        let linked = fs::hard_link(&draft, path);
        // Not the file: what is left over is harmless.
        let _ = fs::remove_file(&draft);
        linked.and_then(|()| sync_directory_of(path)).map_err(unwritable)
    }

    /// Replaces the file at once: readers see the former content or this one, whole. On disk when
    /// this returns.
    fn replace(&self, path: &Path) -> io::Result<()> {
        let draft = self.draft(path)?;
        fs::rename(&draft, path)?;
        sync_directory_of(path)
    }

    /// Writes a file beside `path`; of this process alone, as several may share `path`.
    fn draft(&self, path: &Path) -> io::Result<PathBuf> {
        let mut draft = path.to_owned().into_os_string();
        draft.push(format!(".new-{}", std::process::id()));
        let draft = PathBuf::from(draft);
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => (),
        }
        self.write(&draft)?;
        Ok(draft)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

fn random() -> Result<impl Read, CredentialsError> {
    Ok(io::BufReader::new(File::open("/dev/urandom").map_err(no_random)?))
}

fn no_random(error: io::Error) -> CredentialsError {
    CredentialsError::Random { error }
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("/dev/urandom gives no random numbers: {error}")]
    Random { error: io::Error },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the credentials {} are malformed: {error}", path.display())]
    Malformed { path: PathBuf, error: serde_json::Error },
    #[error(
        "the credentials {} exist already: they are the passwords of a cluster, and stay",
        path.display()
    )]
    Exists { path: PathBuf },
    #[error("the credentials {} cannot be written: {error}", path.display())]
    Unwritable { path: PathBuf, error: io::Error },
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn what_was_stored_loads_and_nobody_else_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        let credentials = Credentials::generate().unwrap();
        credentials.store_new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Credentials::load(&path).unwrap(), credentials);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft stays");
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let message = Credentials::load(&path).unwrap_err().to_string();
            assert!(message.contains("chmod 600"), "{message}");
        }
    }

    #[test]
    fn an_existing_file_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        let first = Credentials::generate().unwrap();
        first.store_new(&path).unwrap();
        let again = Credentials::generate().unwrap().store_new(&path).unwrap_err();
        assert!(matches!(again, CredentialsError::Exists { .. }), "{again}");
        assert_eq!(Credentials::load(&path).unwrap(), first);
    }

    #[test]
    fn passwords_differ_are_long_and_stay_hidden() {
        let Credentials { superuser, replication, lookup, application, .. } =
            Credentials::generate().unwrap();
        let passwords =
            [&superuser.password, &replication.password, &lookup.password, &application.password];
        let distinct: BTreeSet<_> = passwords.iter().map(|password| password.expose()).collect();
        assert_eq!(distinct.len(), 4);
        for password in passwords {
            assert_eq!(password.expose().len(), 32);
            assert!(password.expose().bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
        assert!(!format!("{superuser:?}").contains(superuser.password.expose()));
    }

    #[test]
    fn a_file_of_something_else_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        let missing = Credentials::load(&path).unwrap_err().to_string();
        assert!(missing.contains("cannot be read"), "{missing}");
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let malformed = Credentials::load(&path).unwrap_err().to_string();
        assert!(malformed.contains("malformed"), "{malformed}");
    }
}
