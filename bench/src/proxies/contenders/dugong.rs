//! Our proxy, in front of one server, in each mode and with each engine that it has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use dugong_tests::binary;

use crate::account::{self, Account};
use crate::proxies::contenders::{Build, Contender, Mode};
use crate::relay::Engine;

/// Our programs, and what each of them can be told.
pub(crate) struct Programs {
    current: Program,
    before: Option<Program>,
}

/// One program, and what it can be told by its own words.
struct Program {
    path: PathBuf,
    engines: bool,
    modes: bool,
}

impl Programs {
    /// The given ones; builds the current one of this checkout where none is given.
    pub(crate) fn find(current: Option<&Path>, before: Option<&Path>) -> anyhow::Result<Self> {
        let current = match current {
            Some(path) => Program::ask(path)?,
            None => Program::ask(&binary("dugong-proxy"))?,
        };
        Ok(Self { current, before: before.map(Program::ask).transpose()? })
    }

    /// Every way in which they can be measured.
    pub(super) fn contenders(&self) -> Vec<Contender> {
        let mut all = self.current.contenders(Build::Current);
        all.extend(self.before.iter().flat_map(|program| program.contenders(Build::Before)));
        all
    }

    pub(super) fn path(&self, build: Build) -> anyhow::Result<&Path> {
        let program = match build {
            Build::Current => Some(&self.current),
            Build::Before => self.before.as_ref(),
        };
        Ok(&program.context("there is no program to compare with: name it by --before")?.path)
    }
}

impl Program {
    fn ask(path: &Path) -> anyhow::Result<Self> {
        let output = Command::new(path).arg("--help").output();
        let output = output.with_context(|| format!("{} cannot be started", path.display()))?;
        ensure!(output.status.success(), "{} --help: {}", path.display(), output.status);
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        let knows = |flag| words.split_whitespace().any(|word| word == flag);
        let (engines, modes) = (knows("--relay-engine"), knows("--mode"));
        Ok(Self { path: path.to_owned(), engines, modes })
    }

    fn contenders(&self, build: Build) -> Vec<Contender> {
        let engines: &[Option<Engine>] = match self.engines {
            true => &[Some(Engine::Epoll), Some(Engine::Uring)],
            false => &[None],
        };
        let modes: &[Mode] = match self.modes {
            true => &[Mode::Session, Mode::Tcp],
            false => &[Mode::Session],
        };
        let mut all = Vec::new();
        for mode in modes.iter().copied() {
            let each = engines.iter().copied();
            all.extend(each.map(|engine| Contender::Dugong { build, mode, engine }));
        }
        all
    }
}

pub(super) fn command(
    program: &Path,
    mode: Mode,
    engine: Option<Engine>,
    port: u16,
    server: u16,
) -> anyhow::Result<Command> {
    let mut command = account::command(program, Account::Own)?;
    command.args(["--primary", &format!("127.0.0.1:{server}")]);
    command.args(["--write-port", &port.to_string(), "--log-level", "warn"]);
    for other in ["--read-port", "--http-port"] {
        command.args([other, "0"]);
    }
    match mode {
        Mode::Session => (),
        Mode::Tcp => {
            command.args(["--mode", "tcp"]);
        }
    }
    match engine {
        None => (),
        Some(Engine::Epoll) => {
            command.args(["--relay-engine", "epoll"]);
        }
        Some(Engine::Uring) => {
            command.args(["--relay-engine", "io_uring"]);
        }
    }
    Ok(command)
}
