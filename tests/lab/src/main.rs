//! `lab`.
fn main() {}
