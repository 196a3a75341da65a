//! The thread that writes: it owns the writing connection and the handle's session.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use rusqlite::{Connection, TransactionBehavior};

use super::super::StoreError;
use super::bell;
use super::clock::{BootTime, Clock};
use super::content::{self, Session};
use super::file::{Open, StoreFile};
use super::trouble::Trouble;

/// One request: a transaction, and the answer to whoever waits.
pub(super) type Job = Box<dyn FnOnce(&mut Writer) + Send>;

/// What an answer promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// It survives the loss of power.
    OnDisk,
    /// It survives the end of the process.
    Lazy,
}

/// What the work inside a transaction sees.
pub(super) struct Transaction<'a> {
    pub(super) connection: &'a Connection,
    pub(super) clock: &'a Clock,
    /// Read under the write lock.
    pub(super) now: BootTime,
    /// None for an observer.
    pub(super) session: Option<&'a mut Session>,
}

/// The state of the thread.
pub(super) struct Writer {
    file: Arc<StoreFile>,
    clock: Clock,
    /// None after trouble: the next request opens the file again.
    open: Option<Open>,
    session: Option<Session>,
}

impl Writer {
    pub(super) fn new(
        file: Arc<StoreFile>,
        clock: Clock,
        open: Open,
        session: Option<Session>,
    ) -> Self {
        Self { file, clock, open: Some(open), session }
    }

    /// Works until the handle is dropped.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            job(&mut self);
        }
    }

    /// Does `work` in one transaction, in which every session that has ended is marked so.
    pub(super) fn transact<T>(
        &mut self,
        durability: Durability,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let done = self.connected().and_then(|mut open| {
            let done = self.transact_on(&mut open, durability, work);
            // Dropped after trouble with the file: the next request opens it again.
            if done.as_ref().err().is_none_or(Trouble::spares_connection) {
                self.open = Some(open);
            }
            done
        });
        done.map_err(|trouble| trouble.at(&self.file.path))
    }

    /// The connection, opened again where there is none or the file was exchanged.
    fn connected(&mut self) -> Result<Open, Trouble> {
        match self.open.take() {
            Some(open) if self.file.holds(&open)? => Ok(open),
            Some(_) | None => self.file.connect(),
        }
    }

    fn transact_on<T>(
        &mut self,
        open: &mut Open,
        durability: Durability,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let highest = self.file.highest();
        let synchronous = match durability {
            Durability::OnDisk => "full",
            Durability::Lazy => "normal",
        };
        let connection = &mut open.connection;
        // Takes effect only outside of transactions.
        connection.pragma_update(None, "synchronous", synchronous)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = content::revision(&transaction)?;
        self.file.check(highest, before)?;
        let now = self.clock.now();
        content::mark_lapsed(&transaction, &self.clock, now)?;
        let result = work(&mut Transaction {
            connection: &transaction,
            clock: &self.clock,
            now,
            session: self.session.as_mut(),
        })?;
        let is_changed = content::revision(&transaction)? != before;
        transaction.commit()?;
        if is_changed {
            bell::ring(&self.file.path);
        }
        Ok(result)
    }
}
