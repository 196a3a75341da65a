//! The command line: flags over the environment over the configuration file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

use crate::config::{Config, ConfigError, Settings};

/// Every key, explained.
pub const EXAMPLE_FILE: &str = include_str!("../proxy.toml.example");

const EXAMPLES: &str = "\
Examples:
  In front of a cluster, told by its controllers where the primary is:
    dugong-proxy --controller http://127.0.0.1:8001 --controller http://127.0.0.1:8002
    psql 'host=127.0.0.1 port=6432 dbname=postgres'

  In front of any PostgreSQL servers, whose roles do not change:
    dugong-proxy --primary 127.0.0.1:5432 --replica 127.0.0.1:5433

  In front of a cluster whose controllers are found by SRV records:
    dugong-proxy --controller srv+http://_dugong._tcp.main.dugong.internal

  The same keys in a file, with underscores; each key is explained by --print-example:
    dugong-proxy --print-example > proxy.toml
    dugong-proxy --config proxy.toml --check-config

      controllers = [\"http://127.0.0.1:8001\", \"http://127.0.0.1:8002\"]
      hold_timeout = \"30s\"

  The same keys in the environment, in capital letters, lists with commas:
    DUGONG_PROXY_CONTROLLERS=http://127.0.0.1:8001,http://127.0.0.1:8002 \\
    DUGONG_PROXY_HOLD_TIMEOUT=30s dugong-proxy

Flags win over the environment, the environment over the file, the file over the defaults.

Exit status: 0 after SIGTERM or SIGINT, 1 where it could not run, 2 for a wrong flag or file.";

/// One stable address in front of a PostgreSQL cluster.
///
/// Clients of the write port reach the primary; while there is none they wait. Clients of the read
/// port reach the standbys in turn. The http port answers /health, /metrics and /v1/topology.
#[derive(Debug, Parser)]
#[command(name = "dugong-proxy", version, after_help = EXAMPLES)]
pub struct Cli {
    /// A file with the same settings
    #[arg(long, value_name = "FILE", env = "DUGONG_PROXY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Check the flags, the environment and the file, and do nothing else
    #[arg(long)]
    pub check_config: bool,
    /// Print a file with every key, its default, unit and range, and do nothing else
    #[arg(long)]
    pub print_example: bool,
    #[command(flatten)]
    pub settings: Settings,
}

impl Cli {
    /// What was said, by flags, environment and file together.
    ///
    /// # Errors
    ///
    /// What was said makes no configuration.
    pub fn into_config(
        self,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Config, ConfigError> {
        let environment = Settings::from_environment(variables)?;
        let file = self.config.as_deref().map(Settings::read).transpose()?;
        self.settings.over(environment).over(file.unwrap_or_default()).try_into()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_win_over_the_environment() {
        let cli = Cli::parse_from(["dugong-proxy", "--primary", "a:1", "--hold-timeout", "5s"]);
        let variables = [("DUGONG_PROXY_HOLD_TIMEOUT", "6s"), ("DUGONG_PROXY_MAX_HELD", "7")];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let config = cli.into_config(variables.into_iter()).unwrap();
        assert_eq!((config.hold_timeout.as_secs(), config.max_held), (5, 7));
    }

    #[test]
    fn a_wrong_flag_is_a_usage_error() {
        for flags in [["--hold-timeout", "30"], ["--primary", "a"], ["--read-fallback", "never"]] {
            let error = Cli::try_parse_from(["dugong-proxy", flags[0], flags[1]]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{flags:?}");
        }
    }
}
