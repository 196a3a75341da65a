//! What a client has asked for, and how much of it is answered.
//!
//! Sans-IO: sees the client's messages, and is told of the answers, each of which is a ReadyForQuery.
//! Whoever pipelines waits for several.
//!
//! Source: PostgreSQL's documentation, "Message Flow": what is answered by ReadyForQuery is a Query, a
//! FunctionCall and a Sync, but for a Sync during COPY from the client, which is ignored.

use crate::wire::scan::{Piece, Scanner, Tag};

/// What a client has asked for.
#[derive(Debug)]
pub(super) struct Questions {
    scanner: Scanner,
    /// Syncs without an answer.
    syncs: u32,
    /// Everything else without one; the startup packet first of all.
    others: u32,
    /// Something was sent whose Sync is still to come.
    begun: bool,
    /// The client has said that it leaves.
    farewell: bool,
}

impl Default for Questions {
    fn default() -> Self {
        Self { scanner: Scanner::default(), syncs: 0, others: 1, begun: false, farewell: false }
    }
}

impl Questions {
    /// The next bytes of the client's stream.
    pub(super) fn asked(&mut self, bytes: &[u8]) {
        let Self { scanner, syncs, others, begun, farewell } = self;
        scanner.scan(bytes, |piece| match piece {
            Piece::Header { tag: Tag::QUERY | Tag::FUNCTION_CALL, .. } => {
                *others = others.saturating_add(1);
                *begun = false;
            }
            Piece::Header { tag: Tag::SYNC, .. } => {
                *syncs = syncs.saturating_add(1);
                *begun = false;
            }
            // It was a COPY until now. One that no Query began is to be followed by a Sync.
            Piece::Header { tag: Tag::COPY_DONE | Tag::COPY_FAIL, .. } => {
                *syncs = 0;
                *begun = *others == 0;
            }
            Piece::Header {
                tag: Tag::PARSE | Tag::BIND | Tag::EXECUTE | Tag::DESCRIBE | Tag::CLOSE,
                ..
            } => *begun = true,
            Piece::Header { tag: Tag::TERMINATE, .. } => *farewell = true,
            Piece::Header { .. } | Piece::Body(_) => (),
        });
    }

    /// So many answers have come.
    pub(super) fn answered(&mut self, answers: u32) {
        let to_others = answers.min(self.others);
        self.others -= to_others;
        self.syncs = self.syncs.saturating_sub(answers - to_others);
    }

    /// Whether the client waits.
    pub(super) fn are_open(&self) -> bool {
        self.syncs > 0 || self.others > 0
    }

    /// Whether the client has said that it leaves, and waits for nothing: its server has nothing more to
    /// say.
    pub(super) fn are_over(&self) -> bool {
        self.farewell && !self.are_open()
    }

    /// Whether all is answered and nothing more was begun, not even a message.
    pub(super) fn are_settled(&self) -> bool {
        !self.are_open() && !self.begun && self.scanner.at_boundary()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(tags: &str) -> Vec<u8> {
        tags.bytes().flat_map(|tag| [tag, 0, 0, 0, 6, b'Q', b'S']).collect()
    }

    #[test]
    fn a_client_waits_until_all_of_its_questions_are_answered() {
        // What the client sends, and a dot for each answer that comes.
        #[rustfmt::skip]
        let cases = [
            // what is so                   story           waits  settled
            ("the startup",                 "",             true,  false),
            ("a session began",             ".",            false, true),
            ("a password is no question",   "p.",           false, true),
            ("a query",                     ".Q",           true,  false),
            ("its answer",                  ".Q.",          false, true),
            ("a prepared statement",        ".PBDES",       true,  false),
            ("not asked for yet",           ".PBDE",        false, false),
            ("its answer",                  ".PBDES.",      false, true),
            ("the next before the answer",  ".QQ.",         true,  false),
            ("both answers",                ".SSS...",      false, true),
            ("a COPY by a query",           ".QdddS",       true,  false),
            ("its end",                     ".Qdddc.",      false, true),
            ("a COPY by a statement",       ".PBDESdddcS",  true,  false),
            ("its end",                     ".PBDESdddcS.", false, true),
            ("one is answered, one begun",  ".SPB.",        false, false),
            ("a COPY whose Sync will come", ".PBDESdddc",   false, false),
            ("an answer too many",          ".Q..",         false, true),
        ];
        for (what, story, waits, settled) in cases {
            let mut questions = Questions::default();
            for (index, asked) in story.split('.').enumerate() {
                questions.answered(u32::from(index > 0));
                for piece in messages(asked).chunks(3) {
                    questions.asked(piece);
                }
            }
            assert_eq!(questions.are_open(), waits, "{what}: {story}");
            assert_eq!(questions.are_settled(), settled, "{what}: {story}");
            questions.asked(b"Q");
            assert!(!questions.are_settled(), "{what}: {story}, and the first byte of another");
        }
    }
}
