//! Our proxy, in front of one server, in each mode and with each engine that it has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use dugong_tests::binary;

use crate::account::{self, Account};
use crate::proxies::contenders::{Build, Contender, Mode, Stage};
use crate::relay::Engine;

/// Our programs, and what each of them can be told.
pub(crate) struct Programs {
    current: Program,
    before: Option<Program>,
}

/// One program, and what it can be told by its own words.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    engines: bool,
    modes: bool,
    tls: bool,
}

impl Programs {
    /// The given ones; builds the current one of this checkout where none is given.
    pub(crate) fn find(current: Option<&Path>, before: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self { current: Program::find(current)?, before: before.map(Program::ask).transpose()? })
    }

    /// Every way in which they can be measured.
    pub(super) fn contenders(&self) -> Vec<Contender> {
        let mut all = self.current.contenders(Build::Current);
        all.extend(self.before.iter().flat_map(|program| program.contenders(Build::Before)));
        all
    }

    pub(super) fn path(&self, build: Build) -> anyhow::Result<&Path> {
        Ok(&self.program(build)?.path)
    }

    fn program(&self, build: Build) -> anyhow::Result<&Program> {
        let program = match build {
            Build::Current => Some(&self.current),
            Build::Before => self.before.as_ref(),
        };
        program.context("there is no program to compare with: name it by --before")
    }
}

impl Program {
    /// The given one, or that of this checkout, which is built.
    pub(crate) fn find(path: Option<&Path>) -> anyhow::Result<Self> {
        path.map_or_else(|| Self::ask(&binary("dugong-proxy")), Self::ask)
    }

    fn ask(path: &Path) -> anyhow::Result<Self> {
        let output = Command::new(path).arg("--help").output();
        let output = output.with_context(|| format!("{} cannot be started", path.display()))?;
        ensure!(output.status.success(), "{} --help: {}", path.display(), output.status);
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        let knows = |flag| words.split_whitespace().any(|word| word == flag);
        let (engines, modes) = (knows("--relay-engine"), knows("--mode"));
        Ok(Self { path: path.to_owned(), engines, modes, tls: knows("--tls-cert") })
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
    stage: &Stage,
    build: Build,
    mode: Mode,
    engine: Option<Engine>,
    [port, server]: [u16; 2],
) -> anyhow::Result<Command> {
    let program = stage.programs.program(build)?;
    let mut command = account::command(&program.path, Account::Own)?;
    command.args(in_front_of(server, port));
    match mode {
        Mode::Session if program.tls => {
            command.arg("--tls-cert").arg(&stage.certificate.cert);
            command.arg("--tls-key").arg(&stage.certificate.key);
        }
        Mode::Session => (),
        Mode::Tcp => {
            command.args(["--mode", "tcp"]);
        }
    }
    if let Some(engine) = engine {
        command.args(["--relay-engine", engine.name()]);
    }
    Ok(command)
}

/// Session mode, for a cluster.
pub(super) fn for_cluster(
    program: &Path,
    engine: Option<Engine>,
    url: &str,
    [write, read]: [u16; 2],
) -> anyhow::Result<Command> {
    let mut command = account::command(program, Account::Own)?;
    command.args(["--controller", url, "--http-port", "0", "--log-level", "error"]);
    command.args(["--write-port", &write.to_string(), "--read-port", &read.to_string()]);
    if let Some(engine) = engine {
        command.args(["--relay-engine", engine.name()]);
    }
    Ok(command)
}

fn in_front_of(server: u16, port: u16) -> Vec<String> {
    let (server, port) = (format!("127.0.0.1:{server}"), port.to_string());
    let words =
        ["--primary", &server, "--write-port", &port, "--read-port", "0", "--http-port", "0"];
    words.into_iter().chain(["--log-level", "warn"]).map(str::to_owned).collect()
}

/// Arguments of a proxy in session mode; the engine only where it can be told.
pub(crate) fn arguments(program: &Program, engine: Engine, port: u16, server: u16) -> Vec<String> {
    let mut arguments = in_front_of(server, port);
    if program.engines {
        arguments.extend(["--relay-engine", engine.name()].map(str::to_owned));
    }
    arguments
}
