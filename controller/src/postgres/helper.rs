//! PostgreSQL's programs that run to an end: `initdb`, `pg_basebackup`, `pg_rewind`, `psql` …

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
    /// `said` is the last telling line that it wrote to stderr, or else how it `ended`.
    #[error("{program} failed: {said}")]
    Failed { program: String, said: String, ended: String },
}

/// Whether a line that a helper wrote is worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Keep,
    /// How far it has come: the next one says it better.
    Pass,
}

/// Runs a program to its end. Dropping the future kills it with all of its children.
pub(super) async fn run_helper(
    spawner: &Spawner,
    command: Command,
    at_parent_death: Signal,
) -> Result<Output, HelperError> {
    run_and_hear(spawner, command, at_parent_death, |_| Line::Keep).await
}

/// The same, and `hear` gets each line that it writes to stderr as it comes.
pub(super) async fn run_and_hear(
    spawner: &Spawner,
    mut command: Command,
    at_parent_death: Signal,
    hear: impl FnMut(&str) -> Line,
) -> Result<Output, HelperError> {
    let path = std::path::Path::new(command.as_std().get_program());
    let program = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |error| HelperError::Start { program: program.clone(), error };
    let mut child = spawner.spawn(command, at_parent_death).await.map_err(failed)?;
    let (stdout, stderr) = std::mem::take(&mut child.pipes);
    let (stdout, stderr) = tokio::join!(read_end(stdout, |_| Line::Keep), read_end(stderr, hear));
    match child.exit().wait().await {
        Some(status) if status.success() => Ok(Output { stdout, stderr }),
        status => {
            let ended = status.map_or_else(|| "it is gone".to_owned(), |s| s.to_string());
            let said = telling_line(&stderr).map_or_else(
                || ended.clone(),
                |line| line.trim().trim_start_matches(&format!("{program}: ")).to_owned(),
            );
            Err(HelperError::Failed { program, said, ended })
        }
    }
}

/// The last line that names an error; hints may follow it. Else the last line of all.
fn telling_line(stderr: &str) -> Option<&str> {
    let mut lines = stderr.lines().rev().filter(|line| !line.trim().is_empty());
    let error = lines.clone().find(|line| ["error:", "fatal:"].iter().any(|m| line.contains(m)));
    error.or_else(|| lines.next())
}

async fn read_end(
    pipe: Option<impl AsyncRead + Unpin>,
    mut hear: impl FnMut(&str) -> Line,
) -> String {
    let (mut kept, mut line) = (String::new(), Vec::new());
    let Some(mut pipe) = pipe else { return kept };
    let mut take = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line).into_owned();
        if hear(&text) == Line::Keep {
            kept.push_str(&text);
            kept.push('\n');
        }
        line.clear();
        if kept.len() > OUTPUT_MAX {
            let surplus = kept.len() - OUTPUT_MAX;
            let begin = (surplus..kept.len()).find(|at| kept.is_char_boundary(*at));
            kept.drain(..begin.unwrap_or(kept.len()));
        }
    };
    let mut buffer = vec![0; 8 << 10];
    // An error ends the output like its end does: the exit status tells what became of it.
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        for byte in &buffer[..count] {
            // Progress is written over itself where a person looks.
            if matches!(byte, b'\n' | b'\r') || line.len() >= OUTPUT_MAX {
                take(&mut line);
            } else {
                line.push(*byte);
            }
        }
    }
    if !line.is_empty() {
        take(&mut line);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_line_is_heard_and_progress_is_not_kept() {
        let written: &[u8] = b"begins\n 1/9 kB\r 9/9 kB\r\nfails\xFF";
        let mut heard = Vec::new();
        let kept = read_end(Some(written), |line| {
            heard.push(line.to_owned());
            if line.contains("kB") { Line::Pass } else { Line::Keep }
        });
        assert_eq!(kept.await, "begins\n\nfails\u{FFFD}\n");
        assert_eq!(heard.len(), 5, "{heard:?}");
    }
}
