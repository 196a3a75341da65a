//! The cluster's settings, as this instance has them: taken from the store once its own server's
//! program has no objection, kept beside the data for a start without a store.
//!
//! A set that is refused here is told, and the one before it stays: no server stops for it.
//!
//! **Invariant:** what the server is started with was judged here, or it is nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dugong_topology::Revision;
use tokio::sync::watch;

use super::configuration::Common;
use super::floors::Floors;
use super::judge::{Judge, Verdict};
use super::layout::{Durability, replace_file};
use crate::store::Edition;

/// Kept in the instance's directory.
const FILE: &str = "settings.json";

/// What is refused may be taken later: a library is installed, a file is there.
const AGAIN: Duration = Duration::from_secs(30);

/// What holds here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Adopted {
    pub edition: Arc<Edition>,
    /// A later one, and why it is not taken.
    pub refused: Option<(Revision, Verdict)>,
}

impl Adopted {
    /// As the server is told.
    pub(super) fn common(&self) -> Common {
        let cluster = Arc::new(self.edition.settings.values.clone());
        Common { revision: self.edition.revision, cluster, floors: Floors::default() }
    }
}

/// What was taken last, by this process or the one before.
pub(super) fn kept(dir: &Path) -> Adopted {
    match std::fs::read_to_string(dir.join(FILE)) {
        Ok(text) => match serde_json::from_str(&text) {
            Ok(edition) => Adopted { edition: Arc::new(edition), refused: None },
            Err(error) => {
                tracing::error!(%error, "{FILE} is damaged: the store's settings are waited for");
                Adopted::default()
            }
        },
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::error!(%error, "{FILE} cannot be read: the store's are waited for");
            }
            Adopted::default()
        }
    }
}

/// Follows the store's settings until nobody wants them any more.
pub(super) async fn adopt(
    dir: PathBuf,
    judge: Arc<Judge>,
    mut editions: watch::Receiver<Option<Arc<Edition>>>,
    adopted: watch::Sender<Adopted>,
) {
    loop {
        let newest = editions.borrow_and_update().clone();
        if let Some(edition) = newest
            && edition != adopted.borrow().edition
        {
            take(&dir, &judge, edition, &adopted).await;
        }
        let refused = adopted.borrow().refused.is_some();
        tokio::select! {
            changed = editions.changed() => if changed.is_err() { return },
            () = adopted.closed() => return,
            () = tokio::time::sleep(AGAIN), if refused => (),
        }
    }
}

async fn take(dir: &Path, judge: &Judge, edition: Arc<Edition>, adopted: &watch::Sender<Adopted>) {
    let next = Adopted { edition, refused: None };
    let revision = next.edition.revision;
    if let Err(verdict) = judge.judge(&next.common()).await {
        tracing::warn!(revision = revision.0, "the cluster's settings are not taken: {verdict}");
        adopted.send_modify(|adopted| adopted.refused = Some((revision, verdict)));
        return;
    }
    if let Err(error) = keep(dir, &next.edition) {
        // They hold all the same; only a start without the store would not know them.
        tracing::error!(%error, "{FILE} cannot be written");
    }
    let Edition { settings, .. } = &*next.edition;
    tracing::info!(revision = revision.0, by = settings.by, "the cluster's settings are taken");
    adopted.send_replace(next);
}

fn keep(dir: &Path, edition: &Edition) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(edition)?;
    text.push('\n');
    replace_file(&dir.join(FILE), &text, Durability::Durable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ClusterSettings;

    #[test]
    fn what_was_kept_is_read_again_and_damage_is_no_setting() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(kept(folder.path()), Adopted::default(), "nothing was kept yet");
        let values = [("work_mem".to_owned(), "8MB".to_owned())].into();
        let settings =
            ClusterSettings { values, by: "ann".to_owned(), at_unix_ms: 7, ..Default::default() };
        let edition = Edition { revision: Revision(3), settings };

        keep(folder.path(), &edition).unwrap();

        assert_eq!(*kept(folder.path()).edition, edition);
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(kept(folder.path()), Adopted::default());
    }
}
