//! What the laboratory tells whoever started it, line by line, as it happens.

use std::time::Instant;

/// Tells, with the time since it began.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    began: Instant,
}

impl Voice {
    /// The times count from now.
    pub fn new() -> Self {
        Self { began: Instant::now() }
    }

    /// One line.
    #[expect(clippy::print_stdout, reason = "this is what it is for")]
    pub fn say(&self, words: impl AsRef<str>) {
        println!("{:>8.3} s  {}", self.began.elapsed().as_secs_f64(), words.as_ref());
    }
}

impl Default for Voice {
    fn default() -> Self {
        Self::new()
    }
}
