//! The command line: flags over the configuration file.

use std::path::PathBuf;

use clap::Parser;

use crate::config::{Config, ConfigError, Settings};

const EXAMPLES: &str = "\
Examples:
  In front of a cluster, told by its controllers where the primary is:
    dugong-proxy --controller http://127.0.0.1:8001 --controller http://127.0.0.1:8002
    psql 'host=127.0.0.1 port=6432 dbname=postgres'

  In front of any PostgreSQL servers, whose roles do not change:
    dugong-proxy --primary 127.0.0.1:5432 --replica 127.0.0.1:5433

  The same keys in a file, with underscores; flags win over it:
    dugong-proxy --config proxy.toml

      controllers = [\"http://127.0.0.1:8001\", \"http://127.0.0.1:8002\"]
      hold_timeout = \"30s\"

Exit status: 0 after SIGTERM or SIGINT, 1 where it could not run, 2 for a wrong flag or file.";

/// One stable address in front of a PostgreSQL cluster.
///
/// Clients of the write port reach the primary; while there is none they wait. Clients of the read
/// port reach the standbys in turn. The http port answers /health, /metrics and /v1/topology.
#[derive(Debug, Parser)]
#[command(name = "dugong-proxy", version, after_help = EXAMPLES)]
pub struct Cli {
    /// A file with the same settings
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the flags and the file, and do nothing else
    #[arg(long)]
    pub check_config: bool,
    #[command(flatten)]
    pub settings: Settings,
}

impl Cli {
    /// What was said, by flags and file together.
    ///
    /// # Errors
    ///
    /// What was said makes no configuration.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let file = self.config.as_deref().map(Settings::read).transpose()?;
        self.settings.over(file.unwrap_or_default()).try_into()
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
    fn flags_make_a_configuration() {
        let cli = Cli::parse_from(["dugong-proxy", "--primary", "a:1", "--hold-timeout", "5s"]);
        assert_eq!(cli.into_config().unwrap().hold_timeout.as_secs(), 5);
    }

    #[test]
    fn a_wrong_flag_is_a_usage_error() {
        for flags in [["--hold-timeout", "30"], ["--primary", "a"], ["--read-fallback", "never"]] {
            let error = Cli::try_parse_from(["dugong-proxy", flags[0], flags[1]]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{flags:?}");
        }
    }
}
