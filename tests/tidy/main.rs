//! House rules that a script can check.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// A file that one cannot hold in the head holds a second concept.
const LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every source file of the project.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<_> =
        ["controller", "proxy", "tests", "bench"].map(|name| root().join(name)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50, "the sources are found: {}", found.len());
    found
}

/// What `broken` finds in each source, as one list.
fn all(broken: impl Fn(&Path, &str) -> Vec<String>) -> String {
    let mut lines = Vec::new();
    for path in sources() {
        let content = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        lines.extend(broken(&path, &content).into_iter().map(|what| format!("{name}: {what}")));
    }
    lines.join("\n")
}

#[test]
fn every_file_is_one_concept_and_says_which() {
    let broken = all(|path, content| {
        let mut broken = Vec::new();
        let count = content.lines().count();
        if count > LINES_MAX {
            broken.push(format!("{count} lines; look for the second concept"));
        }
        if !content.starts_with("//!") {
            broken.push("no module doc".to_owned());
        }
        if path.ends_with("mod.rs") {
            broken.push("foo.rs beside foo/, never foo/mod.rs".to_owned());
        }
        broken
    });
    assert_eq!(broken, "");
}

#[test]
fn no_test_is_switched_off() {
    let words = ["ignore", "should_panic"].map(|word| format!("#[{word}"));
    let broken =
        all(|_, content| words.iter().filter(|word| content.contains(*word)).cloned().collect());
    assert_eq!(broken, "");
}

#[test]
fn unsafe_code_has_its_places() {
    let allowed = [
        "controller/src/postgres/process.rs",
        "bench/src/relay/uring.rs",
        "proxy/src/relay/engine/io_uring/ring.rs",
        "proxy/src/relay/bulk/wake.rs",
    ];
    let word = ["unsafe", " {"].concat();
    let broken = all(|path, content| {
        let elsewhere =
            !allowed.iter().any(|allowed| path.ends_with(allowed)) && content.contains(&word);
        if elsewhere { vec!["unsafe code".to_owned()] } else { Vec::new() }
    });
    assert_eq!(broken, "");
}
