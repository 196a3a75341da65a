//! `dugong-controller`: parse, check, run; exit status 2 for what was typed wrong, 1 for what
//! could not be done. With `warden` as its first argument it is the warden of a server instead.

use std::process::ExitCode;

use clap::Parser;
use dugong_controller::postgres::warden;
use dugong_controller::run::{self, Options};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == warden::COMMAND) {
        return match warden::keep(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error),
        };
    }
    let options = Options::parse();
    match run::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            failure.exit_code()
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one sentence for the person who started it")]
fn complain(failure: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("dugong-controller: {failure}");
    ExitCode::FAILURE
}
