//! `dugong verify`: whether a database keeps its promises while somebody breaks things.

use std::io::{IsTerminal, Write};
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::run::Failure;
use crate::verify::recorder::{CLIENTS_MAX, OPERATIONS_MAX, Progress, Remains};
use crate::verify::{Addresses, History, Options as Recording, Recorder, Ruling, Verdict, judge};

/// Between two lines of progress, for whoever watches and for a file.
const WATCHED: Duration = Duration::from_secs(1);
const LOGGED: Duration = Duration::from_secs(10);

/// What `dugong verify` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Writes and reads while you kill servers, cut cables and pull plugs, takes a last look, and tells
whether anything that was promised did not hold: an acknowledged write that is lost, a row that was
read and has vanished, a stale read at the write address. It works against any PostgreSQL, in a
schema of its own, `dugong_verify`, which it removes. Ctrl-C ends it early and still judges.

Exit status: 0 acquitted, 1 convicted, 2 not decided or not run.

Examples:
  dugong verify \"$(dugong dsn)\" --read \"$(dugong dsn --read)\"
  dugong verify 'host=db.example user=app dbname=app' --seconds 600 --json")]
pub struct Options {
    /// The write address: a connection string or URL, as psql takes it.
    #[arg(value_name = "DSN")]
    pub write: String,
    /// The read address: how stale it is, is measured.
    #[arg(long, value_name = "DSN")]
    pub read: Option<String>,
    /// How long to write and read.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Clients that write and read at once.
    #[arg(long, default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(CLIENTS_MAX)))]
    pub clients: u16,
    /// What the clients do follows from it; without it, another one each time.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Registers that are read, written, compared and set at a time: as many as clients, but 4 at
    /// least. The fewer, the more their histories prove, and the longer a proof takes.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(CLIENTS_MAX)))]
    pub registers: Option<u16>,
    /// Leave the tables where they are.
    #[arg(long)]
    pub keep: bool,
    /// Print the verdict as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Records, judges, and prints the verdict.
///
/// # Errors
///
/// Status 1: convicted. Status 2: not decided, or it could not run.
pub async fn verify(options: &Options, print: impl Fn(&str)) -> Result<(), Failure> {
    let addresses = Addresses::parse(&options.write, options.read.as_deref()).map_err(not_run)?;
    let mut orders = Orders::new().map_err(not_run)?;
    let seed = options.seed.unwrap_or_else(any_seed);
    let recorder = tokio::select! {
        started = Recorder::start(addresses, recording(options, seed)) => started.map_err(not_run)?,
        () = orders.end() => return Err(not_run("ended before it began")),
    };
    let tables = recorder.tables();
    say(&format!("seed {seed}; tables {}; Ctrl-C ends it early", tables.join(", ")));
    watch(&recorder, Duration::from_secs(options.seconds.into()), &mut orders).await;
    say("the last looks");
    let history = tokio::select! {
        finished = recorder.finish() => finished.map_err(not_run)?,
        () = orders.end() => {
            let tables = tables.join(", ");
            return Err(not_run(format!("ended before the last looks; left behind: {tables}")));
        }
    };
    if let Some(why) = &history.left_behind {
        say(&format!("{} could not be dropped: {why}", tables.join(", ")));
    }
    tell(&history, options, print)
}

fn tell(history: &History, options: &Options, print: impl Fn(&str)) -> Result<(), Failure> {
    let verdict = judge(history);
    if options.json {
        print(&serde_json::to_string_pretty(&verdict).map_err(not_run)?);
    } else {
        print(&verdict.text());
    }
    conclusion(&verdict)
}

fn conclusion(verdict: &Verdict) -> Result<(), Failure> {
    match verdict.ruling() {
        Ruling::Acquitted => Ok(()),
        Ruling::Convicted => Err(Failure::Runtime(verdict.charges.join("; "))),
        Ruling::NotDecided => Err(not_run(verdict.open.join("; "))),
    }
}

/// Status 2, as is promised for whatever is not a verdict.
fn not_run(why: impl ToString) -> Failure {
    Failure::Usage(why.to_string())
}

fn recording(options: &Options, seed: u64) -> Recording {
    let defaults = Recording::default();
    // However long it runs, and with however many clients, the record must have room.
    let clients = u64::from(options.clients) + u64::from(options.read.is_some());
    let room = u64::from(options.seconds) * 1_000_000 * clients / OPERATIONS_MAX;
    Recording {
        clients: options.clients,
        registers: options.registers.unwrap_or_else(|| options.clients.max(defaults.registers)),
        seed,
        pace: defaults.pace.max(Duration::from_micros(room + room / 10)),
        remains: if options.keep { Remains::Kept } else { Remains::Dropped },
        ..defaults
    }
}

fn any_seed() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::from(since.subsec_nanos()) ^ (since.as_secs() << 16)
}

/// Returns when the time is over, somebody ends it, or nothing more can be recorded.
async fn watch(recorder: &Recorder, time: Duration, orders: &mut Orders) {
    let began = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut lines = tokio::time::interval(if terminal { WATCHED } else { LOGGED });
    lines.tick().await;
    loop {
        // Nothing is lost with the branches that lose.
        tokio::select! {
            () = tokio::time::sleep_until(began + time) => break,
            () = orders.end() => break,
            () = recorder.full() => break,
            _ = lines.tick() => {
                let line = line(began.elapsed(), recorder.progress());
                if terminal { show(&line) } else { say(&line) }
            }
        }
    }
    if terminal {
        show("");
    }
}

fn line(passed: Duration, progress: Progress) -> String {
    format!(
        "{} s: {} writes acknowledged, {} refused, {} unknown, {} reads, {} from the read address; \
         last acknowledged {} ms ago",
        passed.as_secs(),
        progress.acknowledged,
        progress.refused,
        progress.unknown,
        progress.reads,
        progress.glances,
        progress.paused.as_millis()
    )
}

/// In the place of the line before it.
fn show(line: &str) {
    let mut out = std::io::stderr().lock();
    // Progress that nobody can read is none that matters.
    let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
}

fn say(line: &str) {
    // The same.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Ctrl-C, and what `kill` says.
struct Orders {
    interrupt: Signal,
    terminate: Signal,
}

impl Orders {
    fn new() -> std::io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Returns when one of them comes.
    async fn end(&mut self) {
        // A signal that is not taken stays for the next call.
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }
}
