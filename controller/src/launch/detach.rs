//! The launcher in the background.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::UpOptions;
use super::layout::{Layout, at};
use super::progress::say;
use crate::run::Failure;

/// How often the log of the launcher in the background is looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// Starts `dugong up --detached` and shows what it says until writes are accepted.
pub(super) fn in_background(options: &UpOptions) -> Result<(), Failure> {
    let layout = Layout::of(options.dir.as_deref());
    let root = layout.root();
    fs::create_dir_all(root).map_err(|error| at(root, &error))?;
    if let Some(pid) = layout.holder()? {
        return Err(layout.already_running(Some(pid)));
    }
    let path = layout.log();
    let log = OpenOptions::new().create(true).write(true).truncate(true).open(&path);
    let log = log.map_err(|error| at(&path, &error))?;
    let both = log.try_clone().map_err(|error| at(&path, &error))?;
    let own = std::env::current_exe().map_err(Failure::runtime)?;
    let mut command = Command::new(own);
    command.arg("up").arg("--detached").arg("--dir").arg(root);
    pass_on(&mut command, options);
    let mut child =
        command.stdin(Stdio::null()).stdout(log).stderr(both).spawn().map_err(Failure::runtime)?;
    let mut lines = BufReader::new(File::open(&path).map_err(|error| at(&path, &error))?);
    loop {
        let ended = child.try_wait().map_err(Failure::runtime)?;
        if show(&mut lines).map_err(|error| at(&path, &error))? {
            say!("it goes on in the background (pid {}); `dugong down` stops it", child.id());
            return Ok(());
        }
        if let Some(status) = ended {
            return Err(Failure::Runtime(format!(
                "it ended ({status}): {}",
                super::last_line(&path).unwrap_or_else(|| format!("see {}", path.display()))
            )));
        }
        std::thread::sleep(GLANCE);
    }
}

/// Shows what has been said since; true once everything was said that belongs to "ready".
fn show(lines: &mut BufReader<File>) -> std::io::Result<bool> {
    let mut ready = false;
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        say!("{}", line.trim_end());
        ready |= line.trim_start().starts_with("stop ");
        line.clear();
    }
    Ok(ready)
}

fn pass_on(command: &mut Command, options: &UpOptions) {
    if options.one_node {
        command.arg("--one-node");
    }
    let mut pass = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    };
    pass("--instances", options.instances.map(|count| count.to_string()));
    pass("--write-port", options.write_port.map(|port| port.to_string()));
    pass("--read-port", options.read_port.map(|port| port.to_string()));
    pass("--http-port", options.http_port.map(|port| port.to_string()));
    pass("--pg-bin", options.pg_bin.as_ref().map(|path| path.display().to_string()));
    pass("--pg-user", options.pg_user.clone());
    for word in &options.set {
        pass("--set", Some(word.clone()));
    }
}
