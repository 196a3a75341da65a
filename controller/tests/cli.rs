//! What the programs say to bad input: one sentence, and the right exit status.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// Runs a program to its end: status, standard output, standard error.
fn run(program: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let program = match program {
        "dugong" => env!("CARGO_BIN_EXE_dugong"),
        _ => env!("CARGO_BIN_EXE_dugong-controller"),
    };
    let output = Command::new(program).args(arguments).env_remove("DUGONG_DIR").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A refusal is one sentence on standard error that holds these words.
fn refused(program: &str, arguments: &[&str], status: i32, words: &[&str]) {
    let (code, out, error) = run(program, arguments);
    assert_eq!(code, Some(status), "{arguments:?}: {error}");
    assert_eq!(out, "", "{arguments:?}");
    for word in words {
        assert!(error.contains(word), "{arguments:?}: {word:?} in {error}");
    }
}

fn reachable() -> TempDir {
    let permissions = fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().permissions(permissions).tempdir().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_is_typed_wrong_ends_with_status_2() {
    refused("dugong", &["levitate"], 2, &["levitate"]);
    refused("dugong", &["up", "--instances", "2"], 2, &["--instances 2", "3 to 9"]);
    refused("dugong", &["up", "--one-node", "--instances", "3"], 2, &["--one-node", "single"]);
    refused("dugong", &["up", "--instances", "1"], 2, &["3 to 9"]);
    refused("dugong", &["up", "--write-port", "70000"], 2, &["70000"]);
    refused("dugong", &["status", "--controller", "nowhere"], 2, &["nowhere", "https://"]);
    refused("dugong", &["switchover", "--drain", "60s"], 2, &["--timeout", "--drain"]);
    refused("dugong", &["switchover", "--to", "PG"], 2, &["--to", "instance id"]);
    refused("dugong", &["promote", "pg-2"], 2, &["--lose-writes"]);
    refused("dugong", &["freeze"], 2, &["--why"]);
    refused("dugong", &["freeze", "--why", " "], 2, &["--why"]);
    refused("dugong-controller", &[], 2, &["--config"]);
}

#[test]
fn a_directory_without_a_cluster_is_told_as_such() {
    let directory = reachable();
    let dir = text(directory.path());
    for command in ["status", "dsn", "history", "switchover", "unfreeze"] {
        refused("dugong", &[command, "--dir", dir], 1, &["no cluster in", dir, "dugong up"]);
    }
    refused("dugong", &["down", "--dir", dir], 1, &["no cluster runs in", dir]);
}

#[test]
fn a_foreign_directory_is_not_touched() {
    let directory = reachable();
    fs::write(directory.path().join("thesis.tex"), "years of work").unwrap();
    let dir = text(directory.path());
    refused("dugong", &["up", "--dir", dir], 1, &[dir, "not empty", "thesis.tex"]);
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let dir = parent.path().join("cluster");
    refused("dugong", &["up", "--dir", text(&dir)], 1, &[text(&dir)]);
}

#[test]
fn a_missing_or_old_postgresql_is_named_with_its_package() {
    let directory = reachable();
    let dir = text(directory.path());
    let empty = reachable();
    let bin = text(empty.path());
    refused("dugong", &["up", "--dir", dir, "--pg-bin", bin], 1, &[bin, "apt-get install"]);
    for program in ["postgres", "initdb", "pg_basebackup", "pg_controldata"] {
        let path = empty.path().join(program);
        fs::write(&path, "#!/bin/sh\necho 'postgres (PostgreSQL) 12.22'\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let words = ["12.22", "too old", "13 or later"];
    refused("dugong", &["up", "--dir", dir, "--pg-bin", bin], 1, &words);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let directory = reachable();
    let file = directory.path().join("controller.toml");
    fs::write(&file, "instance = \"pg-1\"\n[store]\nsesion_ttl = \"3s\"\n").unwrap();
    let arguments = ["--config", text(&file)];
    refused("dugong-controller", &arguments, 2, &["sesion_ttl", "session_ttl", "controller.toml"]);
    refused("dugong-controller", &["--config", "/nowhere.toml"], 2, &["/nowhere.toml"]);
}

#[test]
fn a_configuration_is_checked_and_told_without_being_used() {
    let directory = reachable();
    let file = directory.path().join("controller.toml");
    fs::write(&file, include_str!("../controller.toml.example")).unwrap();
    let (code, out, error) = run("dugong-controller", &["--check-config", "--config", text(&file)]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with("ok\n"), "{out}");
    assert!(
        out.lines().any(|line| line.starts_with("instance ") && line.contains("pg-1")),
        "{out}"
    );

    let checked = |name: &str, value: &str| {
        let program = env!("CARGO_BIN_EXE_dugong-controller");
        let mut command = Command::new(program);
        command.args(["--check-config", "--config", text(&file)]).env(name, value);
        command.output().unwrap()
    };
    let said = checked("DUGONG_CONTROLLER_INSTANCE", "pg-7");
    let out = String::from_utf8(said.stdout).unwrap();
    assert!(out.contains("\"pg-7\"") && out.contains("# DUGONG_CONTROLLER_INSTANCE"), "{out}");
    let refused = checked("DUGONG_STORE_SESION_TTL", "3s");
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{error}");
    assert!(error.contains("did you mean DUGONG_STORE_SESSION_TTL?"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_controllers_port_in_use_is_named() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let directory = reachable();
    let dir = text(directory.path());
    let credentials = directory.path().join("credentials.json");
    dugong_controller::credentials::Credentials::generate()
        .unwrap()
        .store_new(&credentials)
        .unwrap();
    let file = directory.path().join("controller.toml");
    let content = format!(
        "instance = \"pg-1\"\ndir = \"{dir}/pg-1\"\ncredentials = \"{dir}/credentials.json\"\n\
         [postgres]\nlisten = \"127.0.0.1:20001\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n\
         [store]\npath = \"{dir}/store.db\"\n"
    );
    fs::write(&file, content).unwrap();
    let (code, _, error) = run("dugong-controller", &["--config", text(&file)]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{error}");
}
