//! What cannot be taken back is confirmed by a name that is typed.

use std::io::BufRead;

use crate::run::Failure;

/// Asks, and reads the next line of `typed`.
///
/// # Errors
///
/// It is not the `expected` name.
pub(super) fn confirm(
    question: &str,
    expected: &str,
    typed: &mut impl BufRead,
    print: &mut impl FnMut(&str),
) -> Result<(), Failure> {
    print(question);
    let mut line = String::new();
    typed.read_line(&mut line).map_err(Failure::runtime)?;
    if line.trim() == expected {
        return Ok(());
    }
    Err(Failure::Runtime(format!("not confirmed (not {expected:?}): nothing was asked for")))
}
