//! What another instance's server is asked before data is made by it: over the network, with the
//! role of replication, by `psql`, which speaks TLS and finds passwords as its kin do.

use dugong_machine::Upstream;
use dugong_topology::{History, TimelineId};
use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::{Duration, Instant};

use super::configuration::connection;
use super::control::{LookError, Session, identifier, literal, text};
use super::helper::{HelperError, run_helper};
use super::making::{MakingError, Workshop};
use super::tablespaces::{self, Tablespace};
use crate::credentials::Login;

/// Where `pg_rewind` reads files: any database would do.
pub(super) const REWIND_DATABASE: &str = "postgres";

/// How long a primary may take for the checkpoint that it makes once it is open.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(120);

/// How long it may take to let this role read files, which it does before that checkpoint.
const GRANT_PATIENCE: Duration = Duration::from_secs(30);

/// Between two questions.
const GLANCE: Duration = Duration::from_millis(200);

/// Whether this role may ask the next question.
const MAY_ASK: &str =
    "SELECT has_function_privilege('pg_catalog.pg_read_binary_file(text)', 'EXECUTE')";

/// Its timeline, that of its last checkpoint, and the history of the first: the file, or nothing.
const QUESTION: &str = "SELECT current, checkpoint, replace(CASE WHEN current > 1 THEN \
    convert_from(pg_read_binary_file('pg_wal/' || name || '.history'), 'UTF8') ELSE '' END, \
    chr(10), ';') FROM (SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS name, \
    ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int AS current, \
    timeline_id AS checkpoint FROM pg_control_checkpoint()) AS state";

/// Each tablespace that somebody has created, with its size where this role may know it.
pub(super) const TABLESPACES: &str = "SELECT CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') \
    THEN pg_tablespace_size(oid) ELSE 0 END, pg_tablespace_location(oid) FROM pg_tablespace \
    WHERE pg_tablespace_location(oid) LIKE '/%'";

/// Which branches led to a primary's timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lineage {
    pub history: History,
    /// Of its last checkpoint, which is what its control file shows.
    pub checkpoint: TimelineId,
}

impl Workshop<'_> {
    /// How `pg_rewind` and `psql` connect to an instance.
    pub(super) fn connection_to(self, instance: &Upstream) -> String {
        let to = connection(self.settings, self.layout, instance);
        format!("{to} dbname={REWIND_DATABASE}")
    }

    /// The history of what `primary` writes. One that has only just opened is waited for: without its
    /// leave to read files the data would have to be copied.
    pub(super) async fn lineage_of(self, primary: &Upstream) -> Result<Lineage, MakingError> {
        let deadline = Instant::now() + GRANT_PATIENCE;
        while self.ask(primary, MAY_ASK).await?.trim() != "t" && Instant::now() < deadline {
            tokio::time::sleep(GLANCE).await;
        }
        // Where it was not given, the answer says so.
        self.told_lineage_of(primary).await
    }

    async fn told_lineage_of(self, primary: &Upstream) -> Result<Lineage, MakingError> {
        let answer = self.ask(primary, QUESTION).await?;
        let odd = || LookError::Odd(format!("{} says {answer:?}", primary.id));
        Ok(parse(answer.trim()).ok_or_else(odd)?)
    }

    /// The tablespaces that `source` has.
    pub(super) async fn tablespaces_of(
        self,
        source: &Upstream,
    ) -> Result<Vec<Tablespace>, MakingError> {
        let answer = self.ask(source, TABLESPACES).await?;
        let odd = || LookError::Odd(format!("{} says {answer:?}", source.id));
        Ok(tablespaces::parse(&answer).ok_or_else(odd)?)
    }

    async fn ask(self, instance: &Upstream, question: &str) -> Result<String, MakingError> {
        let mut psql = Command::new(self.settings.bin.join("psql"));
        psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--no-password"])
            .args(["--dbname", &self.connection_to(instance), "--command", question])
            .env("LC_ALL", "C");
        let answer = run_helper(self.spawner, psql, Signal::KILL).await;
        Ok(answer.map_err(|error| not_asked(instance, error))?.stdout)
    }

    /// The same of one that has told it before, once its control file shows the timeline that it
    /// writes on: until then `pg_rewind` (before version 16) takes it to be on the one before.
    pub(super) async fn settled_lineage_of(
        self,
        primary: &Upstream,
    ) -> Result<Lineage, MakingError> {
        let deadline = Instant::now() + CHECKPOINT_PATIENCE;
        loop {
            let lineage = self.told_lineage_of(primary).await?;
            if lineage.checkpoint == lineage.history.timeline {
                return Ok(lineage);
            }
            if Instant::now() > deadline {
                let id = primary.id.to_string();
                return Err(MakingError::NoCheckpoint { id, within: CHECKPOINT_PATIENCE });
            }
            tokio::time::sleep(GLANCE).await;
        }
    }
}

fn not_asked(primary: &Upstream, error: HelperError) -> MakingError {
    MakingError::NotAsked { id: primary.id.to_string(), error }
}

/// `3|3|1<TAB>0/3000000<TAB>reason;2<TAB>…`
fn parse(answer: &str) -> Option<Lineage> {
    let mut columns = answer.splitn(3, '|');
    let mut number = || Some(TimelineId(columns.next()?.parse().ok()?));
    let (timeline, checkpoint) = (number()?, number()?);
    let file = columns.next()?.replace(';', "\n");
    Some(Lineage { history: History::parse(timeline, &file).ok()?, checkpoint })
}

/// Lets those of `roles` that are there read files, as `pg_rewind` does, and the sizes of tablespaces.
///
/// # Errors
///
/// The server refuses, or does not answer.
pub(super) async fn allow_rewind(session: &Session, roles: &[Login]) -> Result<(), LookError> {
    let names: Vec<_> = roles.iter().map(|login| literal(&login.name)).collect();
    let there = format!("SELECT rolname FROM pg_roles WHERE rolname IN ({})", names.join(", "));
    let sets = session.ask(&there).await?;
    // Local: nobody is told of it, and it is said again by the next primary.
    let mut statements = "SET synchronous_commit = local".to_owned();
    for role in sets.iter().flatten().filter_map(|row| text(row, 0)) {
        for grant in rewind_grants(role) {
            statements.push_str(&format!("; {grant}"));
        }
    }
    session.ask(&statements).await.map(|_| ())
}

/// What the role of replication needs to read files, and the sizes of tablespaces. It may copy all of
/// them anyway.
pub(super) fn rewind_grants(role: &str) -> Vec<String> {
    let role = identifier(role);
    let functions = [
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
    ];
    let of_files = functions
        .map(|function| format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role}"));
    [format!("GRANT pg_read_all_stats TO {role}")].into_iter().chain(of_files).collect()
}

#[cfg(test)]
mod tests {
    use dugong_topology::{Lsn, Position};

    use super::*;

    #[test]
    fn a_primary_tells_its_history_in_one_line() {
        let told = "3|2|1\t0/3000000\tno recovery target specified;;2\t0/5000060\tthe same;";
        let line = parse(told).unwrap();
        let ancestors = [(1, 0x300_0000), (2, 0x500_0060)]
            .map(|(timeline, lsn)| Position::new(TimelineId(timeline), Lsn(lsn)));
        assert_eq!(
            line.history,
            History { timeline: TimelineId(3), ancestors: ancestors.to_vec() }
        );
        assert_eq!(line.checkpoint, TimelineId(2));
        assert_eq!(parse("1|1|").unwrap().history, History::root(TimelineId(1)));
        assert_eq!(parse(""), None);
    }
}
