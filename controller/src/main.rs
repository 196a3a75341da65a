//! `dugong-controller`: parse, check, run; exit status 2 for what was typed wrong, 1 for what
//! could not be done.

use std::process::ExitCode;

use clap::Parser;
use dugong_controller::run::{self, Options};

fn main() -> ExitCode {
    let options = Options::parse();
    match run::run(&options) {
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
