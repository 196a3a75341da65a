//! What a controller and the warden of its server say to each other: one line, one word.
//!
//! Both may be of different versions, since a server outlives an upgrade of its controller: words
//! are added, never changed. What is not understood ends the connection, and so the server.

use std::fmt;
use std::str::FromStr;

use dugong_machine::Time;
use rustix::process::Pid;

/// The longest line, its end included. A note is the longest word, and has a few hundred bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What a controller tells the warden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::postgres) enum Order {
    /// The server may live until then, by the clock of this machine; replaces every word before.
    Until(Time),
    /// The server reads its configuration again.
    Reload,
    StopFast,
    StopImmediate,
    /// Every process of the server is killed.
    End,
    /// The connection will close, and the server shall live on for the next controller, which
    /// gets the note: one line that means nothing to the warden.
    Keep(String),
}

/// What the warden tells a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::postgres) enum News {
    /// The first word to each controller; with the note that the one before it has left.
    Running { postmaster: Pid, note: Option<String> },
    /// No server could be started; the warden ends.
    Failed(String),
    /// No process of the server is left; how its postmaster ended, as `wait` has it. The warden
    /// ends.
    Exited(i32),
}

/// A line that is no word.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not understood")]
pub(in crate::postgres) struct NoWord(String);

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until(Time(millis)) => write!(f, "until {millis}"),
            Self::Reload => f.write_str("reload"),
            Self::StopFast => f.write_str("stop fast"),
            Self::StopImmediate => f.write_str("stop immediate"),
            Self::End => f.write_str("end"),
            Self::Keep(note) => write!(f, "keep {note}"),
        }
    }
}

impl FromStr for Order {
    type Err = NoWord;

    fn from_str(line: &str) -> Result<Self, NoWord> {
        let no_word = || NoWord(line.to_owned());
        match line.split_once(' ') {
            Some(("until", millis)) => millis.parse().map(|m| Self::Until(Time(m))).ok(),
            Some(("stop", "fast")) => Some(Self::StopFast),
            Some(("stop", "immediate")) => Some(Self::StopImmediate),
            Some(("keep", note)) => Some(Self::Keep(note.to_owned())),
            None if line == "reload" => Some(Self::Reload),
            None if line == "end" => Some(Self::End),
            Some(_) | None => None,
        }
        .ok_or_else(no_word)
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running { postmaster, note } => {
                write!(f, "running {}", postmaster.as_raw_nonzero())?;
                note.iter().try_for_each(|note| write!(f, " {note}"))
            }
            Self::Failed(why) => write!(f, "failed {}", why.replace('\n', " ")),
            Self::Exited(status) => write!(f, "exited {status}"),
        }
    }
}

impl FromStr for News {
    type Err = NoWord;

    fn from_str(line: &str) -> Result<Self, NoWord> {
        let no_word = || NoWord(line.to_owned());
        match line.split_once(' ') {
            Some(("running", rest)) => {
                let (pid, note) = match rest.split_once(' ') {
                    Some((pid, note)) => (pid, Some(note.to_owned())),
                    None => (rest, None),
                };
                let pid = pid.parse().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
                pid.map(|postmaster| Self::Running { postmaster, note })
            }
            Some(("failed", why)) => Some(Self::Failed(why.to_owned())),
            Some(("exited", status)) => status.parse().ok().map(Self::Exited),
            Some(_) | None => None,
        }
        .ok_or_else(no_word)
    }
}

/// Bytes as they come, cut into words.
#[derive(Debug, Default)]
pub(in crate::postgres) struct Lines(Vec<u8>);

impl Lines {
    pub(in crate::postgres) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole word; none where its end has not come yet.
    ///
    /// # Errors
    ///
    /// The line is no word, or too long to become one.
    pub(in crate::postgres) fn next<W: FromStr<Err = NoWord>>(
        &mut self,
    ) -> Result<Option<W>, NoWord> {
        match self.0.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let line: Vec<u8> = self.0.drain(..=end).collect();
                String::from_utf8_lossy(&line[..end]).parse().map(Some)
            }
            None if self.0.len() >= LINE_BYTES_MAX => Err(NoWord("a line without an end".into())),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(raw: i32) -> Pid {
        Pid::from_raw(raw).unwrap()
    }

    #[test]
    fn every_word_is_read_as_it_was_written() {
        let note = r#"{"a": "b c"}"#.to_owned();
        for order in [
            Order::Until(Time(17)),
            Order::Until(Time(u64::MAX)),
            Order::Reload,
            Order::StopFast,
            Order::StopImmediate,
            Order::End,
            Order::Keep(note.clone()),
        ] {
            assert_eq!(order.to_string().parse(), Ok(order));
        }
        for news in [
            News::Running { postmaster: pid(7), note: None },
            News::Running { postmaster: pid(7), note: Some(note) },
            News::Failed("no such file".to_owned()),
            News::Exited(9),
        ] {
            assert_eq!(news.to_string().parse(), Ok(news));
        }
    }

    #[test]
    fn what_is_no_word_is_refused() {
        for line in ["", "until", "until -1", "until x", "stop", "stop now", "reload 1", "END"] {
            assert!(line.parse::<Order>().is_err(), "{line}");
        }
        for line in ["", "running", "running 0", "running -7", "exited", "exited x", "gone"] {
            assert!(line.parse::<News>().is_err(), "{line}");
        }
    }

    #[test]
    fn words_come_in_whatever_pieces() {
        let mut lines = Lines::default();
        lines.push(b"until 1");
        assert_eq!(lines.next::<Order>(), Ok(None));
        lines.push(b"2\nreload\nen");
        assert_eq!(lines.next(), Ok(Some(Order::Until(Time(12)))));
        assert_eq!(lines.next(), Ok(Some(Order::Reload)));
        assert_eq!(lines.next::<Order>(), Ok(None));
        lines.push(b"d\n");
        assert_eq!(lines.next(), Ok(Some(Order::End)));
        lines.push(&vec![b'x'; LINE_BYTES_MAX]);
        assert!(lines.next::<Order>().is_err(), "a peer cannot fill the memory");
    }
}
