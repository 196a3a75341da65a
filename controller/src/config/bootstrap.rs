//! `[bootstrap]`: where the first data of a new cluster comes from.

use std::path::PathBuf;

use serde::Deserialize;

use super::error::ConfigProblem;
use super::foreign::Foreign;

/// Where the first data comes from. Counts on the instance that begins the cluster, and only then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// From nothing: `method = "initdb"`, the default.
    #[default]
    Initdb,
    /// A command line, for `sh -c`, fills an empty directory with a base backup.
    Command(String),
    /// The data directory of a PostgreSQL that was stopped in order; absolute. It is moved.
    Adopt(PathBuf),
    /// A copy of a primary that goes on, and is followed until an operator ends that.
    Follow(Foreign),
}

/// What the section may say, before it is checked.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawBootstrap {
    method: Method,
    command: Option<String>,
    data: Option<PathBuf>,
    primary: Option<String>,
    password_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    #[default]
    Initdb,
    Command,
    Adopt,
    Follow,
}

impl RawBootstrap {
    /// `keep_diverged`: of `[repair]`.
    pub(super) fn checked(self, keep_diverged: usize) -> Result<Origin, ConfigProblem> {
        let Self { method, command, data, primary, password_file } = self;
        let said = [
            ("command", "command", Method::Command, command.is_some()),
            ("data", "adopt", Method::Adopt, data.is_some()),
            ("primary", "follow", Method::Follow, primary.is_some()),
            ("password_file", "follow", Method::Follow, password_file.is_some()),
        ];
        for (key, its_method, of, said) in said {
            if said && method != of {
                return Err(ConfigProblem::OtherMethod { key, method: its_method });
            }
        }
        let needs = |key, method| ConfigProblem::MethodNeeds { key, method };
        match method {
            Method::Initdb => Ok(Origin::Initdb),
            Method::Command => {
                let command = command.filter(|line| !line.trim().is_empty());
                Ok(Origin::Command(command.ok_or_else(|| needs("command", "command"))?))
            }
            Method::Adopt => {
                let data = data.ok_or_else(|| needs("data", "adopt"))?;
                if !data.is_absolute() {
                    return Err(ConfigProblem::NotAbsolute { key: "bootstrap.data", value: data });
                }
                // Where another instance was quicker to begin the cluster, a copy takes its place.
                if keep_diverged == 0 {
                    return Err(ConfigProblem::AdoptsWithoutKeeping);
                }
                Ok(Origin::Adopt(data))
            }
            Method::Follow => {
                let primary = primary.ok_or_else(|| needs("primary", "follow"))?;
                Ok(Origin::Follow(Foreign::checked(&primary, password_file)?))
            }
        }
    }
}
