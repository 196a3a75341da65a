//! The laboratory itself: do its faults do what they say? Needs root; says so where it is not.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod network;
mod store;

use dugong_lab::namespace;

/// Whether hosts can be made here; says why not.
fn able() -> bool {
    match namespace::able() {
        Ok(()) => true,
        Err(why) => {
            println!("skipped 1: {why}");
            false
        }
    }
}
