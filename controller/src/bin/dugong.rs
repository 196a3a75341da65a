//! `dugong`: the operator's command. Exit status 2 for what was typed wrong, 1 for what could not
//! be done.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dugong_controller::launch::{self, DownOptions, UpOptions};
use dugong_controller::operator::{
    config, dsn, freeze, history, init, migrate, promote, reinit, restart, rotate, status,
    switchover, verify,
};
use dugong_controller::run::Failure;

/// PostgreSQL that stays up: runs a cluster on this machine, and shows any cluster's state.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
        dugong up                  run a cluster of three here; Ctrl-C stops it, `up` resumes it\n  \
        dugong up --detach         the same in the background; `dugong down` stops it\n  \
        psql \"$(dugong dsn)\"       connect to the primary, wherever it is\n  \
        dugong status --watch      see who is what, while you kill things\n\n\
        DUGONG_DIR names the cluster's directory for all commands."
)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run a cluster on this machine; an existing one is resumed with its data.
    Up(UpOptions),
    /// Stop a cluster that runs in the background.
    Down(DownOptions),
    /// Write what the machines of a new cluster need: configurations, certificates, passwords.
    Init(init::Options),
    /// Show who is what, and why writes wait when they wait.
    Status(status::Options),
    /// Print a connection string that works as it is.
    Dsn(dsn::Options),
    /// Show what the cluster has lived through.
    History(history::Options),
    /// Show or change the settings of PostgreSQL that hold in the whole cluster.
    Config(config::Options),
    /// Restart servers, one after the other: standbys first, the primary by a switchover.
    Restart(restart::Options),
    /// Hand the primary's office over, as planned: to upgrade a machine, or to come back to one.
    Switchover(switchover::Options),
    /// Override: make an instance the primary although acknowledged writes may be lost.
    Promote(promote::Options),
    /// Give up the data of a standby, and copy it anew.
    Reinit(reinit::Options),
    /// Exchange the cluster's passwords while it runs.
    RotateCredentials(rotate::Options),
    /// Leave the primary that a new cluster follows, so that the cluster begins.
    Migrate(migrate::Options),
    /// Keep every role as it is, whatever happens, until `unfreeze`.
    Freeze(freeze::FreezeOptions),
    /// Let roles change by themselves again.
    Unfreeze(freeze::UnfreezeOptions),
    /// Write and read while you break things; then prove or refute that every promise held.
    Verify(verify::Options),
}

fn main() -> ExitCode {
    match run(Command::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            #[expect(clippy::print_stderr, reason = "the one sentence for the person who typed")]
            {
                eprintln!("dugong: {failure}");
            }
            failure.exit_code()
        }
    }
}

fn run(what: What) -> Result<(), Failure> {
    match what {
        What::Up(options) => launch::up(&options),
        What::Down(options) => launch::down(&options),
        What::Init(options) => init::init(&options).map(|next| print(&next)),
        What::Status(options) => wait_for(status::status(&options, print)),
        What::Dsn(options) => dsn::dsn(&options).map(|string| print(&string)),
        What::History(options) => {
            wait_for(history::history(&options)).map(|table| print(table.trim_end()))
        }
        What::Config(options) => wait_for(config::config(&options, print)),
        What::Restart(options) => wait_for(restart::restart(&options, print)),
        What::Switchover(options) => wait_for(switchover::switchover(&options, print)),
        What::Promote(options) => {
            wait_for(promote::promote(&options, std::io::stdin().lock(), print))
        }
        What::Reinit(options) => wait_for(reinit::reinit(&options, std::io::stdin().lock(), print)),
        What::RotateCredentials(options) => wait_for(rotate::rotate(&options, print)),
        What::Migrate(options) => {
            wait_for(migrate::migrate(&options, std::io::stdin().lock(), print))
        }
        What::Freeze(options) => wait_for(freeze::freeze(&options)).map(|words| print(&words)),
        What::Verify(options) => wait_for(verify::verify(&options, print)),
        What::Unfreeze(options) => wait_for(freeze::unfreeze(&options)).map(|words| print(&words)),
    }
}

fn wait_for<T>(what: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::runtime)?.block_on(what)
}

/// A reader that has closed the pipe wants no more: that is no failure.
fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}
