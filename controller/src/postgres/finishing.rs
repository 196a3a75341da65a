//! The end of following a foreign primary: whether everything that it wrote is here.
//!
//! | what is behind its address | the last record here | is found |
//! | --- | --- | --- |
//! | nobody listens | of an orderly stop | whole |
//! | nobody listens | another one | doubtful |
//! | nothing tells | any | doubtful |
//! | another server | any | doubtful |
//! | it itself, or a server that lets us not in | any | it runs |
//!
//! A server that is stopped in order first ends its sessions, and then waits until whoever follows
//! it has its last record. So where both are so, nothing that it acknowledged is missing.
//!
//! **Invariant:** a primary that is seen to run is never left, whatever an operator says.

use dugong_topology::Lsn;
use tokio::time::{Duration, Instant};

use super::control::Session;
use super::data_dir::ControlFile;
use super::following::{Following, mark_finished};
use super::foreign::Answer;
use super::look::look_at_standby;
use super::making::MakingError;
use super::migration::{Finding, Finish, Reply};

/// The longest that an answer may take to what was received and not replayed yet. Whoever asks asks
/// again.
const PATIENCE: Duration = Duration::from_secs(4);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(20);

/// What was replayed, where nothing is received any more.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// All that was received; its last record is that of an orderly stop, or not, or cannot be read.
    Replayed { end: Lsn, stop: Result<bool, String> },
    /// There is more.
    Underway(String),
}

impl Following<'_> {
    /// Answers a word; whether the following ends with it.
    pub(super) async fn hear(self, session: &Session, word: Finish) -> Result<bool, MakingError> {
        let (finding, words) = self.find(session).await?;
        let agreed = match finding {
            Finding::Whole => true,
            Finding::Doubtful => word.even_if_behind,
            Finding::NotYet | Finding::Runs => false,
        };
        let finished = agreed && !word.only_check;
        if finished {
            mark_finished(self.data)?;
            tracing::warn!("the following of {} ends by an operator's word: {words}", self.foreign);
        }
        let primary = self.foreign.to_string();
        // Whoever asked may be gone: what was said counts.
        let _ = word.answer.send(Reply { primary, finding, words, finished });
        Ok(finished)
    }

    async fn find(self, session: &Session) -> Result<(Finding, String), MakingError> {
        let workshop = self.workshop;
        let answer = workshop.look_at_foreign(self.foreign).await?;
        let runs = matches!(answer, Answer::Runs { .. } | Answer::Refuses(_));
        let control = ControlFile::read(workshop.settings, workshop.spawner, self.data).await?;
        let ours = control.system_identifier.to_string();
        if runs && !matches!(&answer, Answer::Runs { system } if *system != ours) {
            return Ok(judge(&answer, &ours, &End::Underway(String::new())));
        }
        let end = self.end(session).await?;
        Ok(judge(&answer, &ours, &end))
    }

    /// Waits until nothing is received any more, and that was replayed.
    async fn end(self, session: &Session) -> Result<End, MakingError> {
        let deadline = Instant::now() + PATIENCE;
        let mut idle_before = None;
        loop {
            let look = look_at_standby(session).await?;
            if look.is_sealed(idle_before) {
                let place = self.server.place(session, self.data).await?;
                let (timeline, end) = (place.history.timeline, place.lsn);
                let stop = self.workshop.ends_with_a_stop(self.data, timeline, end).await;
                return Ok(End::Replayed { end, stop });
            }
            if Instant::now() > deadline {
                return Ok(End::Underway(if look.receiver_exists {
                    "its connection to this instance has not ended yet".to_owned()
                } else {
                    format!("what was received is still replayed, it has come to {}", look.replayed)
                }));
            }
            if !look.receiver_exists {
                idle_before = idle_before.or(look.idle);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }
}

/// What follows from what is behind the address, and what the WAL here ends with.
fn judge(answer: &Answer, ours: &str, end: &End) -> (Finding, String) {
    let behind = match answer {
        Answer::Runs { system } if system == ours => {
            let words = "it runs, and may take writes: stop it in order (`pg_ctl stop -m fast`), \
                         and see that nothing starts it again";
            return (Finding::Runs, words.to_owned());
        }
        Answer::Refuses(said) => {
            return (
                Finding::Runs,
                format!("a server runs there, and may take writes ({said}): stop it in order"),
            );
        }
        Answer::Runs { .. } => Some("another server is at its address".to_owned()),
        Answer::Stopped => None,
        Answer::Silent(said) => Some(format!("whether it is stopped cannot be seen ({said})")),
    };
    let end = match end {
        End::Underway(what) => return (Finding::NotYet, what.clone()),
        End::Replayed { end, stop: Ok(true) } => Ok(end),
        End::Replayed { end, stop: Ok(false) } => Err(format!(
            "what is here ends at {end} without the word of an orderly stop, so what it wrote last \
             may be missing: start it once more, let this instance catch up, and stop it in order"
        )),
        End::Replayed { stop: Err(why), .. } => {
            Err(format!("the last record here cannot be read ({why})"))
        }
    };
    match (behind, end) {
        (None, Ok(end)) => {
            (Finding::Whole, format!("it was stopped in order, and all of it is here, up to {end}"))
        }
        (Some(behind), Ok(end)) => (
            Finding::Doubtful,
            format!(
                "{behind}; what is here ends at {end} with the word of an orderly stop: if it was not \
                 started again since, nothing is missing"
            ),
        ),
        (behind, Err(why)) => {
            let behind = behind.map(|behind| format!("{behind}; ")).unwrap_or_default();
            (Finding::Doubtful, format!("{behind}{why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_orderly_stop_of_a_server_that_is_gone_leaves_no_doubt() {
        let runs = |system: &str| Answer::Runs { system: system.to_owned() };
        let refuses = || Answer::Refuses("FATAL:  the database system is shutting down".to_owned());
        let silent = || Answer::Silent("timeout expired".to_owned());
        let end = |stop| End::Replayed { end: Lsn(0x100), stop };
        let (stop, other) = (|| end(Ok(true)), || end(Ok(false)));
        let unread = || end(Err("no pg_waldump".to_owned()));
        let underway = || End::Underway("it is replayed".to_owned());
        #[rustfmt::skip]
        let cases = [
            // behind the address      what is here  is found            in words
            (Answer::Stopped,          stop(),       Finding::Whole,     "up to 0/100"),
            (Answer::Stopped,          other(),      Finding::Doubtful,  "start it once more"),
            (Answer::Stopped,          unread(),     Finding::Doubtful,  "no pg_waldump"),
            (Answer::Stopped,          underway(),   Finding::NotYet,    "it is replayed"),
            (silent(),                 stop(),       Finding::Doubtful,  "not started again since"),
            (silent(),                 other(),      Finding::Doubtful,  "timeout expired"),
            (runs("8"),                stop(),       Finding::Doubtful,  "another server"),
            (runs("7"),                stop(),       Finding::Runs,      "stop it in order"),
            (runs("7"),                other(),      Finding::Runs,      "stop it in order"),
            (refuses(),                stop(),       Finding::Runs,      "shutting down"),
        ];
        for (answer, end, expected, words) in cases {
            let (finding, said) = judge(&answer, "7", &end);
            assert_eq!(finding, expected, "{answer:?} {end:?}");
            assert!(said.contains(words), "{answer:?} {end:?}: {said}");
        }
    }
}
