//! `[bootstrap]`: where the first data of a new cluster comes from.

use std::path::PathBuf;

use serde::Deserialize;

use super::error::ConfigProblem;

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
}

/// What the section may say, before it is checked.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawBootstrap {
    method: Method,
    command: Option<String>,
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    #[default]
    Initdb,
    Command,
    Adopt,
}

impl RawBootstrap {
    /// `keep_diverged`: of `[repair]`.
    pub(super) fn checked(self, keep_diverged: usize) -> Result<Origin, ConfigProblem> {
        let Self { method, command, data } = self;
        let needs = |key, method| ConfigProblem::MethodNeeds { key, method };
        match method {
            Method::Initdb | Method::Command if data.is_some() => {
                Err(ConfigProblem::OtherMethod { key: "data", method: "adopt" })
            }
            Method::Initdb | Method::Adopt if command.is_some() => {
                Err(ConfigProblem::OtherMethod { key: "command", method: "command" })
            }
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
        }
    }
}
