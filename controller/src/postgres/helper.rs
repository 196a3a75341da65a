//! PostgreSQL's programs that run to an end: `initdb`, `pg_basebackup`, `pg_controldata`.

use std::process::Stdio;

use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::process::Spawner;

/// The most output that is kept of a helper, from its end.
const OUTPUT_MAX: usize = 64 << 10;

/// What a helper that succeeded wrote.
#[derive(Debug)]
pub(super) struct Output {
    pub stdout: String,
    pub stderr: String,
}

/// Why a helper did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelperError {
    #[error("{program} cannot be run: {error}")]
    Start { program: String, error: std::io::Error },
    /// `said` is the last telling line that it wrote to stderr.
    #[error("{program} failed: {said}")]
    Failed { program: String, said: String },
}

/// Runs a program to its end. Dropping the future kills it with all of its children.
pub(super) async fn run_helper(
    spawner: &Spawner,
    mut command: Command,
    at_parent_death: Signal,
) -> Result<Output, HelperError> {
    let path = std::path::Path::new(command.as_std().get_program());
    let program = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |error| HelperError::Start { program: program.clone(), error };
    let mut child = spawner.spawn(command, at_parent_death).await.map_err(failed)?;
    let (stdout, stderr) = std::mem::take(&mut child.pipes);
    let (stdout, stderr) = tokio::join!(read_end(stdout), read_end(stderr));
    match child.exit().wait().await {
        Some(status) if status.success() => Ok(Output { stdout, stderr }),
        status => {
            let ended = status.map_or_else(|| "it is gone".to_owned(), |s| s.to_string());
            let said = telling_line(&stderr).map_or(ended, |line| {
                line.trim().trim_start_matches(&format!("{program}: ")).to_owned()
            });
            Err(HelperError::Failed { program, said })
        }
    }
}

/// The last line that names an error; hints may follow it. Else the last line of all.
fn telling_line(stderr: &str) -> Option<&str> {
    let mut lines = stderr.lines().rev().filter(|line| !line.trim().is_empty());
    let error = lines.clone().find(|line| ["error:", "fatal:"].iter().any(|m| line.contains(m)));
    error.or_else(|| lines.next())
}

async fn read_end(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return String::new() };
    let mut buffer = vec![0; 8 << 10];
    // An error ends the output like its end does: the exit status tells what became of it.
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > OUTPUT_MAX {
            kept.drain(..kept.len() - OUTPUT_MAX);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}
