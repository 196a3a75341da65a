//! The proxy's process: flags, logs, the file limit, exit status; nothing else.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use dugong_proxy::ciphers;
use dugong_proxy::cli::{Cli, EXAMPLE_FILE};
use dugong_proxy::config::Config;
use dugong_proxy::lifeline;
use dugong_proxy::runtime::{self, Finished};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

/// What the operator asked for makes no sense.
const USAGE: u8 = 2;
/// It did, but could not be done.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.print_example {
        // A closed standard output wants no more of it.
        let _ = std::io::stdout().write_all(EXAMPLE_FILE.as_bytes());
        return ExitCode::SUCCESS;
    }
    let check_only = cli.check_config;
    let config = match cli.into_config(std::env::vars_os()) {
        Ok(config) => config,
        Err(error) => return complain(&error, USAGE),
    };
    if check_only {
        if let Err(error) = runtime::check_files(&config) {
            return complain(&error, USAGE);
        }
        // A closed standard output leaves the exit status to tell.
        let _ = writeln!(std::io::stdout(), "the configuration is good");
        return ExitCode::SUCCESS;
    }
    begin_to_log(&config);
    raise_file_limit();
    // The main thread lives as long as the process does: what depends on its life is bound here.
    if let Err(error) = lifeline::follow_parent() {
        return complain(&error, FAILED);
    }
    let mut control = Builder::new_multi_thread();
    control.worker_threads(1).thread_name("control").enable_all();
    let (control, ciphers) = match (control.build(), ciphers::start(&config)) {
        (Ok(control), Ok(ciphers)) => (control, ciphers),
        (Err(error), _) | (_, Err(error)) => return complain(&error, FAILED),
    };
    let threads = ciphers.as_ref().unwrap_or(&control).handle().clone();
    let finished = control.block_on(runtime::run(config, threads));
    // Without waiting for name resolution that may still be under way.
    control.shutdown_background();
    if let Some(ciphers) = ciphers {
        ciphers.shutdown_background();
    }
    match finished {
        Ok(Finished::InOrder) => ExitCode::SUCCESS,
        Ok(Finished::AtOnce) => complain(&"stopped at once by a second signal", FAILED),
        Err(error) => complain(&error, FAILED),
    }
}

/// One sentence for the person who started the proxy.
fn complain(error: &dyn Display, status: u8) -> ExitCode {
    // A closed standard error leaves the exit status to tell.
    let _ = writeln!(std::io::stderr(), "dugong-proxy: {error}");
    ExitCode::from(status)
}

fn begin_to_log(config: &Config) {
    let filter = match &config.log_level {
        Some(level) => EnvFilter::new(level),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
}

/// Two descriptors a session: the usual soft limit of 1024 ends at 500 of them.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}
