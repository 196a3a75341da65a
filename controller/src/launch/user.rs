//! Whom the cluster's processes run as: PostgreSQL refuses root.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::layout::at;
use crate::run::Failure;

/// An unprivileged user; none: oneself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User(Option<Account>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// `name`, or `postgres`, where this is root; oneself otherwise.
    pub(super) fn choose(name: Option<&str>) -> Result<Self, Failure> {
        if !rustix::process::geteuid().is_root() {
            return match name {
                Some(name) if ask_id(name, "-u") != Some(rustix::process::geteuid().as_raw()) => {
                    Err(Failure::Usage(format!(
                        "only root can run the cluster as {name}: leave --pg-user out, or use sudo"
                    )))
                }
                Some(_) | None => Ok(Self(None)),
            };
        }
        let name = name.unwrap_or("postgres");
        let account = || Some((ask_id(name, "-u")?, ask_id(name, "-g")?));
        let Some((uid, gid)) = account() else {
            return Err(Failure::Runtime(format!(
                "the user {name} does not exist: install PostgreSQL's server package, which makes \
                 the user postgres, or name another one with --pg-user"
            )));
        };
        if uid == 0 {
            return Err(Failure::Usage(
                "PostgreSQL does not run as root: name an unprivileged user with --pg-user".into(),
            ));
        }
        Ok(Self(Some(Account { name: name.to_owned(), uid, gid })))
    }

    /// The name, where it is not oneself.
    pub(super) fn name(&self) -> Option<String> {
        self.0.as_ref().map(|account| account.name.clone())
    }

    /// Lets `command` run as this user.
    pub(super) fn dress<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        match &self.0 {
            Some(account) => command.uid(account.uid).gid(account.gid),
            None => command,
        }
    }

    /// Gives a file or directory to this user.
    pub(super) fn own(&self, path: &Path) -> Result<(), Failure> {
        match &self.0 {
            Some(account) => {
                chown(path, Some(account.uid), Some(account.gid)).map_err(|error| at(path, &error))
            }
            None => Ok(()),
        }
    }

    /// Whether this user can do what `test` asks (`-w`, `-x`) with `path`.
    pub(super) fn can(&self, test: &str, path: &Path) -> bool {
        let mut command = Command::new("test");
        command.arg(test).arg(path).current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
        self.dress(&mut command).status().is_ok_and(|status| status.success())
    }
}

/// What id(1) says: it knows every source of users that the system has.
fn ask_id(name: &str, what: &str) -> Option<u32> {
    let output = Command::new("id").args([what, name]).stderr(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}
