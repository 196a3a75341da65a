//! What to do where an upstream does not let this instance in.

/// What PostgreSQL says to a role whose password is another one by now, or which had its turn.
const REFUSALS: [&str; 3] = [
    "password authentication failed for user",
    "no pg_hba.conf entry for replication connection",
    "is not permitted to log in",
];

/// The same words, with the next step where they are such a refusal.
pub(super) fn with_next_step(words: String) -> String {
    if !REFUSALS.iter().any(|refusal| words.contains(refusal)) {
        return words;
    }
    format!(
        "{words}; if the cluster's passwords were exchanged while this instance was away, copy \
         credentials.json of another instance over the one here: it is taken up within seconds"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_comes_with_the_next_step_and_nothing_else_does() {
        let refused = "FATAL:  password authentication failed for user \"dugong_replication\"";
        assert!(with_next_step(refused.to_owned()).contains("credentials.json"));
        let other = "could not connect: Connection refused";
        assert_eq!(with_next_step(other.to_owned()), other);
    }
}
