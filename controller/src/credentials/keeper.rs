//! The one who has the file of passwords: reads it at the start, follows it, and writes it.
//!
//! **Invariant:** what is in force here is what the file says, and is on disk before anybody hears of
//! it. A file that cannot be used changes nothing: what was read before it goes on.
//!
//! Several controllers may share one file (`dugong up`): each change begins with what is there.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dugong_trust::{Mark, mark};
use tokio::sync::watch;

use super::{Credentials, CredentialsError, Objection};

/// Between two looks at the file.
const LOOK: Duration = Duration::from_secs(2);

/// Has the passwords.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
    in_force: watch::Sender<Arc<Credentials>>,
    /// What the file was when it was read last. Held while it is read and written.
    seen: Mutex<Mark>,
}

/// Why the passwords are not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    #[error(transparent)]
    Objection(#[from] Objection),
    #[error(transparent)]
    File(#[from] CredentialsError),
    #[error(
        "the credentials {} cannot be written: {error}; the controller's user must be able to \
         write into that directory (under systemd: ReadWritePaths= in the unit)",
        path.display()
    )]
    Unwritable { path: PathBuf, error: std::io::Error },
}

impl Keeper {
    /// Reads the file, and follows it for as long as this is there. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// It cannot be used.
    pub fn open(path: PathBuf) -> Result<Arc<Self>, CredentialsError> {
        let seen = Mutex::new(mark(&path));
        let (in_force, _) = watch::channel(Arc::new(Credentials::load(&path)?));
        let keeper = Arc::new(Self { path, in_force, seen });
        tokio::spawn(follow(Arc::downgrade(&keeper)));
        Ok(keeper)
    }

    /// What holds.
    pub fn in_force(&self) -> watch::Receiver<Arc<Credentials>> {
        self.in_force.subscribe()
    }

    /// Changes what is in the file, and what holds.
    ///
    /// # Errors
    ///
    /// There is an objection, or the file cannot be read or written; nothing has changed.
    pub fn change(
        &self,
        change: impl FnOnce(&Credentials) -> Result<Credentials, Objection>,
    ) -> Result<Arc<Credentials>, KeeperError> {
        // Whoever panicked with it has changed nothing that matters here.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = Credentials::load(&self.path)?;
        let after = change(&before)?;
        if after != before {
            let path = || self.path.clone();
            after
                .replace(&self.path)
                .map_err(|error| KeeperError::Unwritable { path: path(), error })?;
            tracing::info!(exchange = ?after.exchange.as_ref().map(|it| (&it.id, it.stage)), "credentials");
        }
        *seen = mark(&self.path);
        let after = Arc::new(after);
        self.tell(after.clone());
        Ok(after)
    }

    /// Reads the file, if it is another one by now.
    fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = mark(&self.path);
        if *seen == now {
            return;
        }
        *seen = now;
        match Credentials::load(&self.path) {
            Ok(newest) => {
                tracing::info!(path = %self.path.display(), "the credentials were exchanged");
                self.tell(Arc::new(newest));
            }
            Err(error) => tracing::warn!("the new credentials are not taken: {error}"),
        }
    }

    fn tell(&self, newest: Arc<Credentials>) {
        self.in_force.send_if_modified(|known| {
            let other = *known != newest;
            *known = newest;
            other
        });
    }
}

async fn follow(keeper: Weak<Keeper>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(keeper) = keeper.upgrade() else { return };
        keeper.look();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::super::{ExchangeId, Kind, Login, Logins, Password, Stage};
    use super::*;

    fn next() -> Logins {
        let password = Password::fresh().unwrap();
        [(Kind::Lookup, Login { name: "dugong_lookup_b".to_owned(), password })].into()
    }

    #[tokio::test(start_paused = true)]
    async fn two_who_share_a_file_go_on_from_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        Credentials::generate().unwrap().store_new(&path).unwrap();
        let [one, two] = [(); 2].map(|()| Keeper::open(path.clone()).unwrap());
        let (id, next) = (ExchangeId::fresh().unwrap(), next());

        let known = one.change(|now| now.learn(&id, next.clone(), None)).unwrap();
        let used = two.change(|now| now.take_into_use(&id)).unwrap();

        assert_eq!(known.exchange.as_ref().unwrap().stage, Stage::Known);
        assert_eq!(used.lookup, next[&Kind::Lookup]);
        assert_eq!(Credentials::load(&path).unwrap(), *used, "on disk");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft stays");
        let mut followed = one.in_force();
        followed.wait_for(|now| *now == used).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_exchanged_file_is_taken_and_a_bad_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        Credentials::generate().unwrap().store_new(&path).unwrap();
        let keeper = Keeper::open(path.clone()).unwrap();
        let mut in_force = keeper.in_force();
        let first = in_force.borrow_and_update().clone();

        std::fs::write(&path, "{").unwrap();
        keeper.look();
        assert_eq!(*in_force.borrow(), first, "damaged");
        assert!(keeper.change(|now| Ok(now.clone())).is_err(), "and it is said");
        let second = Credentials::generate().unwrap();
        second.replace(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        keeper.look();
        assert_eq!(*in_force.borrow(), first, "others may read it");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        in_force.wait_for(|now| **now == second).await.unwrap();
    }
}
