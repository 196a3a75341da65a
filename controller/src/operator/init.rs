//! `dugong init`: what the machines of a new cluster need, written into a directory.

mod authority;

pub use authority::{AUTHORITY_DAYS, Authority, MACHINE_DAYS, Signed};
