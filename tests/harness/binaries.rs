//! The programs under test, as this checkout builds them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The path of one of the programs; builds them first, so that no test runs an old one.
pub fn binary(name: &str) -> PathBuf {
    built().join(name)
}

/// The directory of the programs, built in the profile that the caller was built in.
pub fn built() -> &'static PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let own = std::env::current_exe().expect("a running program has a path");
        // target/debug/deps/endtoend-0123, or target/release/dugong-bench.
        let directory = own
            .ancestors()
            .skip(1)
            .find(|ancestor| !ancestor.ends_with("deps"))
            .expect("a program lies in a directory")
            .to_owned();
        let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--bins"]);
        // All of them: with fewer packages their libraries have other features, and are built again.
        cargo.arg("--workspace");
        if directory.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.status().expect("cargo runs");
        assert!(status.success(), "the programs under test do not build: {status}");
        directory
    })
}
