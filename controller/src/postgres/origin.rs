//! The first data of a cluster: made from nothing, or what was somebody's before.
//!
//! **Invariant:** what came from elsewhere lies under a name that is nobody's data until it has
//! recovered, was stopped in order, has this instance's identity, and is on disk. Whatever ends
//! before leaves nothing that ever starts as data.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use dugong_topology::Generation;
use tokio::sync::watch;

use super::carried::{self, Of};
use super::data_dir::{ControlFile, new_identity, remove_source_marks, write_identity};
use super::following::{Desk, MIGRATED};
use super::layout::{remove_all, sync_directory};
use super::making::{MakingError, Replaced, Stamp, Workshop};
use crate::config::Origin;

impl Workshop<'_> {
    /// Makes it. `words` gets how far that is; at `desk` an operator is heard, where that is needed.
    /// Dropping the future kills whatever works on it.
    pub(super) async fn begin(
        self,
        origin: &Origin,
        words: &watch::Sender<String>,
        desk: &Desk,
    ) -> Result<(), MakingError> {
        match origin {
            Origin::Initdb => self.initialise().await,
            Origin::Command(line) => {
                self.restore(line, words).await?;
                carried::keep_files(self.layout, &self.layout.data_restored)?;
                self.become_data(&self.layout.data_restored, Of::Another, vec![], words).await
            }
            Origin::Adopt(path) => {
                if self.layout.data_adopted.exists() {
                    tracing::info!("the adoption of {} goes on", path.display());
                } else {
                    self.take(path).await?;
                }
                self.become_data(&self.layout.data_adopted, Of::Itself, vec![], words).await
            }
            Origin::Follow(foreign) => {
                self.follow(foreign, words, desk).await?;
                let settings = self.followed_settings()?;
                self.become_data(&self.layout.data_followed, Of::Another, settings, words).await?;
                Ok(remove_all(&self.layout.data.join(MIGRATED))?)
            }
        }
    }

    /// What lies in `data` recovers, with `settings` before its own, and takes its place as this
    /// instance's.
    async fn become_data(
        self,
        data: &Path,
        of: Of,
        settings: Vec<(&str, String)>,
        words: &watch::Sender<String>,
    ) -> Result<(), MakingError> {
        let Self { layout, spawner, .. } = self;
        self.clear().await?;
        let found = self.recover(data, settings, words).await?;
        carried::write(layout, data, &found, of)?;
        remove_source_marks(data)?;
        let control = ControlFile::read(self.settings, spawner, data).await?;
        if control.state != "shut down" {
            let state = control.state;
            return Err(MakingError::Server(format!("it left the data {state:?}")));
        }
        let first = Stamp { making: 1, made_in: Generation::default() };
        write_identity(data, &new_identity(self.settings, &control, first, control.checkpoint))?;
        sync_whole(data.to_owned()).await?;
        fs::rename(data, &layout.data_new)?;
        sync_directory(&layout.dir)?;
        self.put_in_place(Replaced::Prefix).await
    }
}

/// All that was written to the disk of `data`: who knows what a command has left in memory.
async fn sync_whole(data: std::path::PathBuf) -> io::Result<()> {
    let syncing = tokio::task::spawn_blocking(move || Ok(rustix::fs::syncfs(File::open(data)?)?));
    syncing.await.map_err(io::Error::other)?
}
