//! The data directory of a PostgreSQL that is there already: whether it may be adopted, and how it
//! comes here.
//!
//! **Invariant:** nothing is changed before everything was looked at; then it is moved by one rename,
//! so that it is in one place or in the other, whole.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::carried;
use super::data_dir::{ControlFile, read_identity};
use super::layout::sync_directory;
use super::making::{MakingError, Workshop};

impl Workshop<'_> {
    /// Moves the data directory `named` here, if it may be adopted.
    pub(super) async fn take(self, named: &Path) -> Result<(), MakingError> {
        let refused = |why: String| MakingError::NotAdopted { path: named.to_owned(), why };
        let path = match named.canonicalize() {
            Ok(path) => path,
            Err(error) => return Err(refused(format!("cannot be found: {error}"))),
        };
        self.is_usable(&path).and_then(|()| at_rest(&path)).map_err(refused)?;
        let control = ControlFile::read(self.settings, self.spawner, &path).await?;
        if control.state != "shut down" {
            return Err(refused(format!(
                "was not stopped in order (its control file says {:?}): {START_AND_STOP}",
                control.state
            )));
        }
        carried::keep_files(self.layout, &path)?;
        let target = &self.layout.data_adopted;
        fs::rename(&path, target).map_err(|error| {
            refused(if error.kind() == io::ErrorKind::CrossesDevices {
                elsewhere(&path, &self.layout.dir)
            } else {
                format!("cannot be moved to {}: {error}", target.display())
            })
        })?;
        tracing::info!("{} is adopted: it was moved to {}", path.display(), target.display());
        sync_directory(&self.layout.dir)?;
        path.parent().map_or(Ok(()), sync_directory)?;
        Ok(())
    }
}

const START_AND_STOP: &str = "start its server once more, and stop it (`pg_ctl stop -m fast`)";

fn elsewhere(path: &Path, dir: &Path) -> String {
    let copy = dir.join("adopt");
    format!(
        "is on another file system than {}: copy it, `cp -a {} {}`, and name the copy in [bootstrap] \
         data",
        dir.display(),
        path.display(),
        copy.display()
    )
}

/// Whether nobody works in it, now or later, but us.
fn at_rest(path: &Path) -> Result<(), String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let owner = fs::metadata(path).map_err(unreadable)?.uid();
    let me = rustix::process::geteuid().as_raw();
    if owner != me {
        return Err(format!(
            "belongs to the user with number {owner}, and the controller is number {me}: run it as \
             that user, or `chown -R` the directory"
        ));
    }
    if read_identity(path).map_or(true, |identity| identity.is_some()) {
        return Err("is an instance's of Dugong's: start that one's controller".to_owned());
    }
    let pid = path.join("postmaster.pid");
    if let Ok(text) = fs::read_to_string(&pid) {
        let number = text.lines().next().unwrap_or_default().trim();
        return Err(if Path::new("/proc").join(number).exists() && !number.is_empty() {
            format!("is in use by the process {number}: stop that server (`pg_ctl stop -m fast`)")
        } else {
            format!("was not stopped in order, {} is left: {START_AND_STOP}", pid.display())
        });
    }
    for mark in ["standby.signal", "recovery.signal", "backup_label"] {
        if path.join(mark).exists() {
            return Err(format!("has a {mark}: start and promote its server first, and stop it"));
        }
    }
    let slots = slots(path).map_err(unreadable)?;
    if !slots.is_empty() {
        return Err(format!(
            "has the replication slots {}, which no failover would bring along: drop them first \
             (pg_drop_replication_slot)",
            slots.join(", ")
        ));
    }
    Ok(())
}

fn slots(path: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(path.join("pg_replslot"))?;
    let paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    let name = |path: &PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    Ok(paths.iter().filter_map(name).collect())
}
