//! HAProxy, in front of one server, without a look at what passes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::account::{self, Account};
use crate::proxies::contenders::Splice;

/// What is said beside the number of threads and the ports.
///
/// Timeouts longer than any run, so that only their being armed is measured; no health checks, no
/// logs, no statistics.
pub(super) const SETTINGS: &str = "\
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
";

pub(super) fn command(
    threads: usize,
    splice: Splice,
    connections: u64,
    [port, server]: [u16; 2],
    prefix: &Path,
) -> anyhow::Result<Command> {
    // Pipes have descriptors, too: two for each, and HAProxy wants one for each fourth connection.
    let (splice, connections) = match splice {
        Splice::No => ("", connections),
        Splice::Auto => ("  option splice-auto\n", connections / 2),
    };
    let file = prefix.with_extension("cfg");
    let text = format!(
        "global\n  nbthread {threads}\n  maxconn {connections}\n{SETTINGS}{splice}\
         frontend clients\n  bind 127.0.0.1:{port} backlog 4096\n  default_backend servers\n\
         backend servers\n  server postgres 127.0.0.1:{server}\n"
    );
    fs::write(&file, text)?;
    let mut command = account::command("haproxy", Account::Own)?;
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}
