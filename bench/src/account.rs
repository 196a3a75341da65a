//! Who runs what: PostgreSQL and PgBouncer refuse root, and nothing outlives the benchmark.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use tempfile::TempDir;

/// Whom a program runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// Whoever runs the benchmark.
    Own,
    /// `postgres` where that is root; else the same as `Own`.
    Server,
}

/// A command that runs as `account`, and is killed when the thread that starts it is gone.
pub(crate) fn command(program: impl AsRef<OsStr>, account: Account) -> anyhow::Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if account == Account::Server && unprivileged()?.is_some() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg("--").arg(program);
    Ok(command)
}

/// A folder of its own that `Account::Server` may enter and write.
pub(crate) fn folder(prefix: &str) -> anyhow::Result<TempDir> {
    let permissions = fs::Permissions::from_mode(0o755);
    let folder = tempfile::Builder::new().prefix(prefix).permissions(permissions).tempdir()?;
    give(folder.path())?;
    Ok(folder)
}

/// Makes `path` belong to `Account::Server`.
pub(crate) fn give(path: &Path) -> anyhow::Result<()> {
    if let Some((user, group)) = unprivileged()? {
        chown(path, Some(user), Some(group)).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// The user and the group that take root's place; none where this is not root.
fn unprivileged() -> anyhow::Result<Option<(u32, u32)>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    for line in users.lines() {
        let fields: Vec<_> = line.split(':').collect();
        if let ["postgres", _, user, group, ..] = fields.as_slice() {
            return Ok(Some((user.parse()?, group.parse()?)));
        }
    }
    bail!("the user postgres does not exist: install postgresql")
}
