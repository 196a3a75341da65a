//! The processes of one host: started, ended, stopped and continued, and started again when they
//! end by themselves, as an init system does.
//!
//! **Invariant:** nothing is started on a host that is down or paused, however many faults asked
//! for it: each takes back only its own.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;

use crate::namespace::Namespace;

/// How long a service that ended by itself stays down: systemd's `RestartSec` is of this order.
const RESTART_AFTER: Duration = Duration::from_millis(500);

/// A program that a host runs as long as it is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    pub kind: Kind,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// Its standard output and error, appended.
    pub log: PathBuf,
}

/// What a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A member of the store.
    Store,
    Controller,
    Proxy,
}

/// A host's services, and what was done to them.
#[derive(Debug, Default)]
pub struct Keeper {
    slots: Vec<Slot>,
    /// How many faults hold the host in SIGSTOP.
    paused: u32,
    /// Services that ended without having been told to.
    ended_by_themselves: Vec<String>,
}

#[derive(Debug)]
struct Slot {
    service: Service,
    child: Option<Child>,
    /// How many faults want it not to run.
    down: u32,
    not_before: Option<Instant>,
}

impl Keeper {
    /// Nothing runs yet: the first [`Keeper::tend`] starts it.
    pub fn new(services: Vec<Service>) -> Self {
        let slot = |service| Slot { service, child: None, down: 0, not_before: None };
        Self { slots: services.into_iter().map(slot).collect(), ..Self::default() }
    }

    /// Starts what should run and does not. Call it often.
    ///
    /// # Errors
    ///
    /// A program cannot be started.
    pub fn tend(&mut self, on: &Namespace) -> anyhow::Result<()> {
        for slot in &mut self.slots {
            if let Some(child) = &mut slot.child
                && let Some(status) = child.try_wait()?
            {
                slot.child = None;
                if slot.down == 0 {
                    let words = ending(&slot.service, status);
                    self.ended_by_themselves.push(words);
                    slot.not_before = Some(Instant::now() + RESTART_AFTER);
                }
            }
            let due = slot.not_before.is_none_or(|at| Instant::now() >= at);
            if slot.child.is_none() && slot.down == 0 && self.paused == 0 && due {
                slot.child = Some(start(&slot.service, on)?);
            }
        }
        Ok(())
    }

    /// SIGKILL to everything on the host; it stays down until [`Keeper::raise`].
    ///
    /// # Errors
    ///
    /// See [`Namespace::kill_all`].
    pub fn drop_host(&mut self, on: &Namespace) -> anyhow::Result<()> {
        for slot in &mut self.slots {
            slot.down += 1;
        }
        on.kill_all()?;
        self.reap()
    }

    /// Takes one [`Keeper::drop_host`] back.
    pub fn raise(&mut self) {
        for slot in &mut self.slots {
            slot.down = slot.down.saturating_sub(1);
        }
    }

    /// SIGKILL to the services of one kind; they stay down until [`Keeper::raise_kind`].
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn kill_kind(&mut self, kind: Kind) -> anyhow::Result<()> {
        for slot in self.slots.iter_mut().filter(|slot| slot.service.kind == kind) {
            slot.down += 1;
            if let Some(mut child) = slot.child.take() {
                child.kill()?;
                child.wait()?;
            }
        }
        Ok(())
    }

    /// Takes one [`Keeper::kill_kind`] back.
    pub fn raise_kind(&mut self, kind: Kind) {
        for slot in self.slots.iter_mut().filter(|slot| slot.service.kind == kind) {
            slot.down = slot.down.saturating_sub(1);
        }
    }

    /// SIGSTOP to everything on the host, until [`Keeper::resume`].
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn pause(&mut self, on: &Namespace) -> anyhow::Result<()> {
        self.paused += 1;
        on.signal_all(Signal::STOP)?;
        Ok(())
    }

    /// Takes one [`Keeper::pause`] back; with the last one everything continues.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn resume(&mut self, on: &Namespace) -> anyhow::Result<()> {
        self.paused = self.paused.saturating_sub(1);
        if self.paused == 0 {
            on.signal_all(Signal::CONT)?;
        }
        Ok(())
    }

    /// Whether it has a service of this kind.
    pub fn has(&self, kind: Kind) -> bool {
        self.slots.iter().any(|slot| slot.service.kind == kind)
    }

    /// How each service ended that nobody had told to.
    pub fn ended_by_themselves(&self) -> &[String] {
        &self.ended_by_themselves
    }

    /// The files that the services write to.
    pub fn logs(&self) -> impl Iterator<Item = &Path> {
        self.slots.iter().map(|slot| slot.service.log.as_path())
    }

    /// Collects the ends of children that were killed.
    fn reap(&mut self) -> anyhow::Result<()> {
        for slot in &mut self.slots {
            if let Some(mut child) = slot.child.take() {
                child.wait()?;
            }
        }
        Ok(())
    }
}

fn ending(service: &Service, status: ExitStatus) -> String {
    format!("{} ({status})", service.name)
}

/// As the user `postgres`: PostgreSQL refuses root, and a controller's server is its child.
fn start(service: &Service, on: &Namespace) -> anyhow::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(&service.log);
    let log = log.with_context(|| service.log.display().to_string())?;
    // Both replace themselves: the child's pid is the program's.
    Command::new("nsenter")
        .arg(format!("--net={}", on.handle().display()))
        .args(["--", "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"])
        .arg(&service.program)
        .args(&service.arguments)
        .current_dir("/")
        .env_remove("DUGONG_DIE_WITH_PARENT")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{} cannot be started", service.name))
}
