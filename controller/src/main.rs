//! `dugong-controller`: parse, check, run; exit status 2 for what was typed wrong, 1 for what
//! could not be done.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use dugong_controller::postgres::warden;
use dugong_controller::run::{self, Options};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let outcome = match (arguments.next(), arguments.next()) {
        (Some(command), Some(dir)) if command == warden::COMMAND => run::warden(Path::new(&dir)),
        (_, _) => run::run(&Options::parse()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            #[expect(
                clippy::print_stderr,
                reason = "the one sentence for the person who started it"
            )]
            {
                eprintln!("dugong-controller: {failure}");
            }
            failure.exit_code()
        }
    }
}
