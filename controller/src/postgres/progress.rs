//! How far the making of data has come, by what PostgreSQL's programs say.
//!
//! Source: PostgreSQL, `progress_report` of `pg_basebackup` and of `pg_rewind`: the same form since
//! version 13, `1024/40101 kB (2%)` and more words.

use dugong_topology::{Making, Way};
use tokio::time::{Duration, Instant};

/// How much is done, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    way: Way,
    /// Since when it comes: what is before that says nothing about the pace.
    begun: Instant,
    pub done: u64,
    /// As far as can be told beforehand. 0: not known yet.
    pub total: u64,
}

impl Progress {
    /// Nothing was done yet.
    pub(super) fn begun(way: Way) -> Self {
        Self { way, begun: Instant::now(), done: 0, total: 0 }
    }

    /// What a line says, if it is about progress.
    pub(super) fn heard(self, line: &str) -> Option<Self> {
        let (numbers, _) = line.split_once(" kB")?;
        let (done, total) = numbers.trim().split_once('/')?;
        let bytes = |text: &str| text.parse::<u64>().ok()?.checked_mul(1024);
        // A source may first take its time for a checkpoint.
        let begun = if self.total == 0 { Instant::now() } else { self.begun };
        Some(Self { way: self.way, begun, done: bytes(done)?, total: bytes(total)? })
    }

    /// The same for others, as of now.
    pub(super) fn told(self) -> Making {
        self.told_after(self.begun.elapsed())
    }

    fn told_after(self, elapsed: Duration) -> Making {
        let Self { way, done, total, .. } = self;
        let total_bytes = (total > 0).then_some(total);
        let rest = total.saturating_sub(done);
        // A pace that is made of nothing says nothing.
        let seconds_left = total_bytes.filter(|_| done > 0).and_then(|_| {
            let millis = elapsed.as_millis().checked_mul(u128::from(rest))?;
            u64::try_from(millis / u128::from(done) / 1000).ok()
        });
        Making { way, done_bytes: done, total_bytes, seconds_left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_pace_so_far() {
        let told = |done, total| {
            let progress = Progress { done, total, ..Progress::begun(Way::Copy) };
            let making = progress.told_after(Duration::from_secs(10));
            (making.total_bytes, making.seconds_left)
        };
        assert_eq!(told(0, 0), (None, None));
        assert_eq!(told(0, 400), (Some(400), None));
        assert_eq!(told(100, 400), (Some(400), Some(30)));
        assert_eq!(told(410, 400), (Some(400), Some(0)));
    }

    #[test]
    fn progress_reads_as_the_programs_write_it() {
        let progress = |done: u64, total: u64| Some((done * 1024, total * 1024));
        #[rustfmt::skip]
        let cases = [
            ("    0/40101 kB (0%) copied",                                            progress(0, 40101)),
            ("40101/40101 kB (100%) copied",                                          progress(40101, 40101)),
            (" 4213/23123 kB (18%), 0/1 tablespace (...w/data.new/base/5/2608)",      progress(4213, 23123)),
            ("23130/23130 kB (100%), 1/1 tablespace",                                 progress(23130, 23130)),
            ("pg_rewind: need to copy 39 MB (total source directory size is 57 MB)", None),
            ("waiting for checkpoint",                                                None),
        ];
        for (line, expected) in cases {
            let heard = Progress::begun(Way::Rewind).heard(line);
            assert_eq!(heard.map(|now| (now.done, now.total)), expected, "{line}");
        }
    }
}
