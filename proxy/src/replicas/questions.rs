//! How many answers a client waits for.
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
}

impl Default for Questions {
    fn default() -> Self {
        Self { scanner: Scanner::default(), syncs: 0, others: 1 }
    }
}

impl Questions {
    /// The next bytes of the client's stream.
    pub(super) fn asked(&mut self, bytes: &[u8]) {
        let Self { scanner, syncs, others } = self;
        scanner.scan(bytes, |piece| match piece {
            Piece::Header { tag: Tag::QUERY | Tag::FUNCTION_CALL, .. } => {
                *others = others.saturating_add(1);
            }
            Piece::Header { tag: Tag::SYNC, .. } => *syncs = syncs.saturating_add(1),
            // It was a COPY until now.
            Piece::Header { tag: Tag::COPY_DONE | Tag::COPY_FAIL, .. } => *syncs = 0,
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
            ("the startup",                 "",             true),
            ("a session began",             ".",            false),
            ("a password is no question",   "p.",           false),
            ("a query",                     ".Q",           true),
            ("its answer",                  ".Q.",          false),
            ("a prepared statement",        ".PBDES",       true),
            ("not asked for yet",           ".PBDE",        false),
            ("its answer",                  ".PBDES.",      false),
            ("the next before the answer",  ".QQ.",         true),
            ("both answers",                ".SSS...",      false),
            ("a COPY by a query",           ".QdddS",       true),
            ("its end",                     ".Qdddc.",      false),
            ("a COPY by a statement",       ".PBDESdddcS",  true),
            ("its end",                     ".PBDESdddcS.", false),
            ("an answer too many",          ".Q..",         false),
        ];
        for (what, story, expected) in cases {
            let mut questions = Questions::default();
            for (index, asked) in story.split('.').enumerate() {
                questions.answered(u32::from(index > 0));
                for piece in messages(asked).chunks(3) {
                    questions.asked(piece);
                }
            }
            assert_eq!(questions.are_open(), expected, "{what}: {story}");
        }
    }
}
