//! How an operator ends the following of a foreign primary, and what is answered.
//!
//! **Invariant:** nothing but such a word ends it: that a connection broke, or that the primary was
//! stopped, says nothing about what its operator wants.
//!
//! **Invariant:** a word whose speaker has gone is not acted upon.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

/// The word.
#[derive(Debug)]
pub struct Finish {
    /// Nothing is done; only looked.
    pub only_check: bool,
    /// That what the primary wrote last may be lost.
    pub even_if_behind: bool,
    pub answer: oneshot::Sender<Reply>,
}

/// What was found, and whether it was acted upon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The primary that is followed, `host:port`.
    pub primary: String,
    pub finding: Finding,
    /// Why, and what to do, for people.
    pub words: String,
    /// The following has ended, and the cluster begins.
    pub finished: bool,
}

/// Whether everything that the primary wrote is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It is: the primary has stopped in order, and the last that it wrote was replayed.
    Whole,
    /// Not known yet: asked again in a moment, it is.
    NotYet,
    /// The primary runs, so that it may write more.
    Runs,
    /// Nobody can tell from here.
    Doubtful,
}

/// Where words are heard while a primary is followed; none while none is.
pub type Migration = watch::Receiver<Option<mpsc::Sender<Finish>>>;

/// The other end of [`Migration`]: whoever follows hears there for as long as this lives.
pub(super) struct Hearing<'a> {
    open: &'a watch::Sender<Option<mpsc::Sender<Finish>>>,
    words: mpsc::Receiver<Finish>,
}

impl<'a> Hearing<'a> {
    pub(super) fn begin(open: &'a watch::Sender<Option<mpsc::Sender<Finish>>>) -> Self {
        let (sender, words) = mpsc::channel(1);
        open.send_replace(Some(sender));
        Self { open, words }
    }

    /// The next word of somebody who still waits for the answer.
    pub(super) async fn next(&mut self) -> Finish {
        loop {
            match self.words.recv().await {
                Some(word) if word.answer.is_closed() => (),
                Some(word) => return word,
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        self.open.send_replace(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_word_is_heard_only_while_somebody_follows_and_its_speaker_waits() {
        let (open, migration) = watch::channel(None);
        let mut hearing = Hearing::begin(&open);
        let speaker = migration.borrow().clone().unwrap();
        let word = |even_if_behind| {
            let (answer, answered) = oneshot::channel();
            (Finish { only_check: false, even_if_behind, answer }, answered)
        };
        let (first, gone) = word(true);
        speaker.send(first).await.unwrap();
        drop(gone);
        let (second, waiting) = word(false);
        let (word, sent) = tokio::join!(hearing.next(), speaker.send(second));
        sent.unwrap();
        assert!(!word.even_if_behind, "whoever spoke first has gone");
        drop((word, waiting, hearing));
        assert!(migration.borrow().is_none());
    }
}
