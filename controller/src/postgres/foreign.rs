//! What a foreign primary is asked, by `psql` over the protocol of replication, and what it means.
//!
//! A role that may replicate, and a line for it in `pg_hba.conf`, is all that is needed there.
//!
//! Source: PostgreSQL manual, "Streaming Replication Protocol"; libpq, `fe-connect.c` (its words).

use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::Duration;

use super::helper::{HelperError, Line, run_and_hear};
use super::layout::{Durability, replace_file};
use super::making::{MakingError, Workshop};
use super::programs::version_of;
use super::tablespaces::{self, Tablespace};
use crate::config::Foreign;

/// A server that takes longer than this does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A backup needs two, and who follows one.
const SENDERS: u32 = 3;

/// Where nothing is written. The password is in a file, so that nobody is asked for one.
const DEFAULTS: [(&str, &str); 5] = [
    ("connect_timeout", "3"),
    ("keepalives_idle", "5"),
    ("keepalives_interval", "2"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "10000"),
];

/// What was asked before a primary is followed.
const QUESTIONS: [&str; 6] = [
    "IDENTIFY_SYSTEM",
    "SHOW server_version_num",
    "SHOW wal_level",
    "SHOW max_wal_senders",
    "SHOW transaction_read_only",
    "SHOW default_transaction_read_only",
];

/// What stands behind the address of a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A server, of this system.
    Runs { system: String },
    /// A server that lets nobody in, in its own words.
    Refuses(String),
    /// No server: that machine says that nobody listens.
    Stopped,
    /// Nothing that tells whether a server runs.
    Silent(String),
}

/// Why there was no answer: what `psql` wrote.
#[derive(Debug)]
pub(super) struct Unanswered(Vec<String>);

impl Workshop<'_> {
    /// How libpq connects to it. Writes the password where libpq finds it.
    pub(super) fn connection_to_foreign(self, foreign: &Foreign) -> Result<String, MakingError> {
        let passfile = self.layout.run.join("primary.pgpass");
        let line = match &foreign.password_file {
            Some(path) => {
                let secret = dugong_trust::secret("bootstrap.password_file", path);
                let secret = secret.map_err(|error| not_followed(foreign, error.to_string()))?;
                format!("*:*:*:*:{}\n", secret.replace('\\', "\\\\").replace(':', "\\:"))
            }
            None => String::new(),
        };
        replace_file(&passfile, &line, Durability::Atomic)?;
        let no_certificate = self.layout.run.join("no.crt");
        let own = [
            ("passfile", passfile.to_string_lossy().into_owned()),
            // Where none is named, libpq looks for one in a home that it may not enter.
            ("sslcert", no_certificate.to_string_lossy().into_owned()),
            ("application_name", self.slot_there()),
        ];
        let defaults = DEFAULTS.map(|(name, value)| (name, value.to_owned()));
        let said = foreign.parameters.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let unsaid =
            own.into_iter().chain(defaults).filter(|(name, _)| foreign.get(name).is_none());
        let word = |(name, value): (&str, String)| {
            format!("{name}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
        };
        Ok(said.chain(unsaid).map(word).collect::<Vec<_>>().join(" "))
    }

    /// The slot on a foreign primary that keeps WAL for us. A cluster of Dugong's drops those of its
    /// own that nobody uses; they begin otherwise.
    pub(super) fn slot_there(self) -> String {
        format!("to_{}", self.settings.instance.slot_name())
    }

    /// What stands behind its address just now.
    pub(super) async fn look_at_foreign(self, foreign: &Foreign) -> Result<Answer, MakingError> {
        Ok(match self.ask_foreign(foreign, &["IDENTIFY_SYSTEM"]).await? {
            Ok(said) => {
                let system = said.split('|').next().unwrap_or_default().trim().to_owned();
                Answer::Runs { system }
            }
            Err(unanswered) => unanswered.meaning(),
        })
    }

    /// Whether it can be followed: by this role, with these programs.
    pub(super) async fn can_be_followed(self, foreign: &Foreign) -> Result<(), MakingError> {
        let ours = version_of(&self.settings.bin)
            .map_err(|error| not_followed(foreign, format!("({error})")))?;
        let said = match self.ask_foreign(foreign, &QUESTIONS).await? {
            Ok(said) => said,
            Err(unanswered) => return Err(not_followed(foreign, unanswered.advice(foreign))),
        };
        fitness(&said, ours.major).map_err(|why| not_followed(foreign, why))
    }

    /// Makes the slot anew; whether there is one, or why not.
    pub(super) async fn reserve_wal(
        self,
        foreign: &Foreign,
    ) -> Result<Result<(), String>, MakingError> {
        let slot = self.slot_there();
        let drop = format!("DROP_REPLICATION_SLOT {slot}");
        if let Err(error) = self.ask_foreign(foreign, &[&drop]).await? {
            let words = error.last();
            if words.contains("is active") {
                return Err(not_followed(
                    foreign,
                    format!(
                        "{words}: another instance of this name follows it; end that one, or give \
                         this one another name"
                    ),
                ));
            }
        }
        let create = format!("CREATE_REPLICATION_SLOT {slot} PHYSICAL RESERVE_WAL");
        let made = self.ask_foreign(foreign, &[&create]).await?;
        Ok(made.map(|_| ()).map_err(|error| error.last()))
    }

    /// Its tablespaces, where the role may ask for them.
    pub(super) async fn tablespaces_of_foreign(
        self,
        foreign: &Foreign,
    ) -> Result<Vec<Tablespace>, MakingError> {
        let connection = self.connection_to_foreign(foreign)?;
        let connection = format!("{connection} dbname=postgres");
        let answer = self.psql(&connection, &[super::remote::TABLESPACES]).await;
        let found = match &answer {
            Ok(answer) => tablespaces::parse(answer),
            Err(error) => {
                // The copy will tell, if that is more than this question.
                let error = error.last();
                tracing::warn!("the tablespaces of {foreign} are not known: {error}");
                None
            }
        };
        Ok(found.unwrap_or_default())
    }

    async fn ask_foreign(
        self,
        foreign: &Foreign,
        commands: &[&str],
    ) -> Result<Result<String, Unanswered>, MakingError> {
        let connection = self.connection_to_foreign(foreign)?;
        Ok(self.psql(&format!("{connection} replication=true"), commands).await)
    }

    async fn psql(self, connection: &str, commands: &[&str]) -> Result<String, Unanswered> {
        let mut psql = Command::new(self.settings.bin.join("psql"));
        psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--no-password"])
            .args(["--dbname", connection])
            .args(commands.iter().flat_map(|command| ["--command", command]))
            .env("LC_ALL", "C");
        let mut lines = Vec::new();
        let hear = |line: &str| {
            lines.push(line.trim().to_owned());
            Line::Keep
        };
        let asking = run_and_hear(self.spawner, psql, Signal::KILL, hear);
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(output)) => Ok(output.stdout),
            Ok(Err(HelperError::Failed { .. })) => Err(Unanswered(lines)),
            Ok(Err(error @ HelperError::Start { .. })) => Err(Unanswered(vec![error.to_string()])),
            Err(_elapsed) => Err(Unanswered(vec![format!("no answer within {PATIENCE:?}")])),
        }
    }
}

impl Unanswered {
    /// What it says about the server. libpq tries each address of a host, and tells of each.
    fn meaning(&self) -> Answer {
        if self.0.iter().any(|line| line.contains("FATAL:") || line.contains("ERROR:")) {
            return Answer::Refuses(self.last());
        }
        let reason = |line: &String| {
            let marks = [" failed: ", "could not connect to server: "];
            marks.iter().find_map(|mark| Some(line.split_once(mark)?.1.to_owned()))
        };
        let reasons: Vec<_> = self.0.iter().filter_map(reason).collect();
        let nobody = ["Connection refused", "No such file or directory"];
        if !reasons.is_empty() && reasons.iter().all(|why| nobody.contains(&why.as_str())) {
            Answer::Stopped
        } else {
            Answer::Silent(self.last())
        }
    }

    /// The last line that tells why.
    fn last(&self) -> String {
        let marks = ["FATAL:", "ERROR:", "failed: ", "error: "];
        let mut lines = self.0.iter().rev().filter(|line| !line.is_empty());
        let telling = lines.clone().find(|line| marks.iter().any(|mark| line.contains(mark)));
        let line = telling.or_else(|| lines.next()).map_or("it said nothing", String::as_str);
        line.trim_start_matches("psql: error: ").to_owned()
    }

    /// The same, and what to do about it.
    fn advice(&self, foreign: &Foreign) -> String {
        let (words, role) = (self.last(), foreign.get("user").unwrap_or_default());
        let has = |text: &str| words.contains(text);
        let advice = if has("password authentication failed") || has("no password supplied") {
            "write the password of that role, alone, into the file that bootstrap.password_file names"
                .to_owned()
        } else if has("no pg_hba.conf entry") {
            format!(
                "add `host replication {role} ADDRESS scram-sha-256` to its pg_hba.conf, with the \
                 address of this machine, and reload it"
            )
        } else if has("replication role") || has("permission denied to start WAL sender") {
            format!("run `ALTER ROLE \"{role}\" REPLICATION` there")
        } else if has("max_wal_senders") {
            format!("set max_wal_senders there to {SENDERS} more, and restart it")
        } else {
            match self.meaning() {
                Answer::Stopped | Answer::Silent(_) => {
                    "see that it runs, that its listen_addresses \
                    include that address, and that no firewall is between"
                        .to_owned()
                }
                Answer::Runs { .. } | Answer::Refuses(_) => return words,
            }
        };
        format!("{words}: {advice}")
    }
}

/// Whether a server that says this can be followed by ours.
fn fitness(said: &str, ours: u32) -> Result<(), String> {
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    let [_, version, wal_level, senders, read_only, read_only_by_default] = lines[..] else {
        return Err(format!("its answer cannot be understood: {said:?}"));
    };
    let theirs = version.parse::<u32>().map(|number| number / 10_000);
    if theirs != Ok(ours) {
        let theirs = theirs.map_or_else(|_| version.to_owned(), |major| major.to_string());
        return Err(format!(
            "it is PostgreSQL {theirs}, and the programs here are of {ours}: install those of \
             {theirs}, and name them in [postgres] bin"
        ));
    }
    if wal_level == "minimal" {
        return Err("its wal_level is minimal: set it to replica there, and restart it".to_owned());
    }
    if senders.parse::<u32>().map_or(true, |senders| senders < SENDERS) {
        return Err(format!(
            "its max_wal_senders is {senders}, and at least {SENDERS} are needed: set it there, and \
             restart it"
        ));
    }
    // In recovery every transaction is read-only.
    if read_only == "on" && read_only_by_default == "off" {
        return Err("it is a standby itself: name its primary".to_owned());
    }
    Ok(())
}

pub(super) fn not_followed(foreign: &Foreign, why: impl Into<String>) -> MakingError {
    MakingError::NotFollowed { primary: foreign.to_string(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unanswered(text: &str) -> Unanswered {
        Unanswered(text.lines().map(|line| line.trim().to_owned()).collect())
    }

    #[test]
    fn only_the_machine_itself_tells_that_a_server_is_stopped() {
        let refused = "psql: error: connection to server at \"old\" (10.0.0.9), port 5432 failed: \
                       Connection refused\n\tIs the server running on that host?";
        let late = "connection to server at \"old\" (10.0.0.9), port 5432 failed: timeout expired";
        let fatal = "psql: error: connection to server at \"old\" failed: FATAL:  the database \
                     system is shutting down";
        let socket = "psql: error: connection to server on socket \"/x/.s.PGSQL.1\" failed: \
                      No such file or directory\n\tIs the server running locally?";
        let old = "psql: error: could not connect to server: Connection refused\n\tIs it running?";
        #[rustfmt::skip]
        let cases = [
            ("nobody listens",               refused.to_owned(),             "stopped"),
            ("nor at the other address",     format!("{refused}\n{refused}"), "stopped"),
            ("the other address is silent",  format!("{refused}\n{late}"),   "silent"),
            ("silent",                       late.to_owned(),                "silent"),
            ("it still ends",                fatal.to_owned(),               "refuses"),
            ("no socket",                    socket.to_owned(),              "stopped"),
            ("an older libpq",               old.to_owned(),                 "stopped"),
            ("nothing",                      String::new(),                  "silent"),
            ("paused",                       "no answer within 5s".into(),   "silent"),
        ];
        for (what, text, expected) in cases {
            let found = match unanswered(&text).meaning() {
                Answer::Runs { .. } => "runs",
                Answer::Refuses(_) => "refuses",
                Answer::Stopped => "stopped",
                Answer::Silent(_) => "silent",
            };
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn a_server_that_cannot_be_followed_is_told_with_the_reason() {
        let said = |version, wal_level, senders, read_only| {
            format!("77|1|0/1500790|\n{version}\n{wal_level}\n{senders}\n{read_only}\noff\n")
        };
        #[rustfmt::skip]
        let cases = [
            (said("150018", "replica", "10", "off"), None),
            (said("150000", "logical", "3", "off"),  None),
            (said("140009", "replica", "10", "off"), Some("it is PostgreSQL 14, and the programs here are of 15")),
            (said("150018", "minimal", "10", "off"), Some("its wal_level is minimal")),
            (said("150018", "replica", "2", "off"),  Some("its max_wal_senders is 2")),
            (said("150018", "replica", "10", "on"),  Some("a standby itself")),
            ("77|1|0/1500790|\n".to_owned(),         Some("cannot be understood")),
        ];
        for (said, expected) in cases {
            match (fitness(&said, 15), expected) {
                (Ok(()), None) => (),
                (Err(why), Some(words)) => assert!(why.contains(words), "{said}: {why}"),
                (found, _) => panic!("{said}: {found:?}"),
            }
        }
    }
}
