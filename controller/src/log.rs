//! Where the log goes: standard error, by a thread of its own.
//!
//! What standard error leads to may be a file on a disk that hangs. Whoever logs must not hang with it:
//! the controller fences, and renews leases. Lines wait in memory; what comes when too many wait is
//! lost, and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// So many lines may wait.
const LINES_MAX: usize = 4096;

/// How long the end of a process waits for what was not written yet.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks at whether there is room for one more word.
const GLANCE: Duration = Duration::from_millis(1);

enum Word {
    Line(Vec<u8>),
    /// All that came before is written once this is answered.
    Flush(SyncSender<()>),
}

/// The way to the log.
#[derive(Clone)]
pub(crate) struct Log {
    words: SyncSender<Word>,
    lost: Arc<AtomicU64>,
}

/// Dropping it waits for what was not written yet.
pub(crate) struct Flusher(SyncSender<Word>);

impl Log {
    /// # Errors
    ///
    /// No thread can be started.
    pub(crate) fn start(to: impl Write + Send + 'static) -> io::Result<(Self, Flusher)> {
        let (words, come) = mpsc::sync_channel(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let missing = lost.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || write(to, &come, &missing))?;
        let flusher = Flusher(words.clone());
        Ok((Self { words, lost }, flusher))
    }
}

fn write(mut to: impl Write, come: &Receiver<Word>, lost: &AtomicU64) {
    while let Ok(word) = come.recv() {
        // A log that takes nothing leaves nobody to be told.
        let _ = match word {
            Word::Line(line) => to.write_all(&line),
            Word::Flush(answer) => {
                let flushed = to.flush();
                // Whoever asked may have lost patience.
                let _ = answer.send(());
                flushed
            }
        };
        let missing = lost.swap(0, Ordering::Relaxed);
        if missing > 0 {
            let _ =
                writeln!(to, "{missing} lines of this log are lost: it took nothing for a while");
        }
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.words.try_send(Word::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_PATIENCE;
        let (answer, answered) = mpsc::sync_channel(1);
        let mut word = Word::Flush(answer);
        // As many lines as may wait may wait just now.
        while let Err(TrySendError::Full(back)) = self.0.try_send(word) {
            if Instant::now() > deadline {
                return; // It hangs, and nobody else shall.
            }
            word = back;
            thread::sleep(GLANCE);
        }
        // An error: as above.
        let _ = answered.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes nothing while somebody else holds it.
    #[derive(Clone, Default)]
    struct Hung(Arc<Mutex<Vec<u8>>>);

    impl Write for Hung {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes its time for the first line.
    #[derive(Clone, Default)]
    struct Slow(Arc<AtomicU64>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                thread::sleep(LAST_PATIENCE / 10);
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_end_waits_for_what_was_not_written_also_where_there_is_no_room_to_say_so() {
        let slow = Slow::default();
        let (log, flusher) = Log::start(slow.clone()).unwrap();
        let mut sent = 0;
        while log.words.try_send(Word::Line(b"line\n".to_vec())).is_ok() {
            sent += 1;
        }
        drop(flusher);
        assert_eq!(slow.0.load(Ordering::Relaxed), sent);
    }

    #[test]
    fn whoever_logs_goes_on_while_the_log_hangs_and_is_told_later_what_is_lost() {
        let hung = Hung::default();
        let (mut log, flusher) = Log::start(hung.clone()).unwrap();
        let held = hung.0.lock().unwrap();
        // One line may be on its way already.
        for _ in 0..LINES_MAX + 10 {
            log.write_all(b"line\n").unwrap();
        }
        drop(held);
        while log.words.try_send(Word::Line(b"last\n".to_vec())).is_err() {
            thread::yield_now();
        }
        drop(flusher);
        let text = String::from_utf8(hung.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("lines of this log are lost"), "{}", text.len());
        assert!(text.lines().filter(|line| *line == "line").count() >= LINES_MAX, "{}", text.len());
        assert!(text.ends_with("last\n"), "{}", text.len());
    }
}
