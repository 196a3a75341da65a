//! The examples of the manual give what they say.

use std::process::Stdio;

use dugong_controller::publish::dns::{NameServer, Zone};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::*;

const PAGE: &str = include_str!("../../../docs/dns-and-services.md");

/// A stream that goes on after what is shown.
const AND_SO_ON: &str = "...";

const SOON: Duration = Duration::from_secs(30);

/// The cluster that the page speaks of.
fn machines() -> Topology {
    let machine = |n: u8, state: &str| Member {
        address: Some(Address { host: format!("10.0.0.{n}"), port: 5432 }),
        http: Some(Address { host: format!("10.0.0.{n}"), port: 8008 }),
        state: state.to_owned(),
        ..member(&format!("pg-{n}"), None)
    };
    Topology {
        primary: Some(machine(1, "running")),
        sync: Some(machine(2, "streaming")),
        asyncs: vec![machine(3, "streaming")],
        ..cluster(42)
    }
}

/// Commands with the lines that follow them, from the blocks of the language `console`.
fn examples() -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for block in PAGE.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => found.push((command.to_owned(), Vec::new())),
                None => found.last_mut().unwrap().1.push(words(line)),
            }
        }
    }
    found
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manuals_examples_give_what_they_say() {
    let (_sender, topologies) = watch::channel(published(machines()));
    let zone = Zone::new("dugong.internal", "main", 1).unwrap();
    let dns = dugong_tests::free_port();
    let server = NameServer::bind(&Address::loopback(dns), zone).await.unwrap();
    tokio::spawn(server.serve(topologies.clone()));
    let http = serve("pg-1", topologies).await;

    let examples = examples();
    assert!(examples.len() > 8, "the examples are found: {examples:?}");
    for (command, mut expected) in examples {
        let here = command
            .replace("dig @10.0.0.1", &format!("dig -r @127.0.0.1 -p {dns}"))
            .replace("http://10.0.0.1:8008", &format!("http://127.0.0.1:{http}"));
        assert_ne!(here, command, "every example asks the cluster");
        let mut got = output(&here, &expected).await;
        expected.retain(|line| line != AND_SO_ON);
        // The order of equals changes from answer to answer.
        if command.starts_with("dig") {
            expected.sort();
            got.sort();
        }
        assert_eq!(got, expected, "{command}");
    }
}

/// What the command says; of a stream as much as is expected.
async fn output(command: &str, expected: &[String]) -> Vec<String> {
    let mut shell = Command::new("sh");
    // One process, which is ended with its handle.
    let exec = if command.contains('|') { "" } else { "exec " };
    shell.args(["-c", &format!("{exec}{command}")]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = shell.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    let goes_on = expected.last().is_some_and(|line| line == AND_SO_ON);
    while !goes_on || said.len() + 1 < expected.len() {
        match timeout(SOON, lines.next_line()).await.unwrap().unwrap() {
            Some(line) => said.push(words(&line)),
            None => break,
        }
    }
    said
}
