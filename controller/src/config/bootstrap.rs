//! `[bootstrap]`: where the first data of a new cluster comes from.

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
}

/// What the section may say, before it is checked.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawBootstrap {
    method: Method,
    command: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    #[default]
    Initdb,
    Command,
}

impl RawBootstrap {
    pub(super) fn checked(self) -> Result<Origin, ConfigProblem> {
        let Self { method, command } = self;
        let other = |key, method| Err(ConfigProblem::OtherMethod { key, method });
        match (method, command) {
            (Method::Initdb, None) => Ok(Origin::Initdb),
            (Method::Initdb, Some(_)) => other("command", "command"),
            (Method::Command, Some(command)) if !command.trim().is_empty() => {
                Ok(Origin::Command(command))
            }
            (Method::Command, _) => {
                Err(ConfigProblem::MethodNeeds { key: "command", method: "command" })
            }
        }
    }
}
