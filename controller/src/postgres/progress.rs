//! How far the making of data has come, by what PostgreSQL's programs say.
//!
//! Source: PostgreSQL, `progress_report` of `pg_basebackup` and of `pg_rewind`: the same form since
//! version 13, `1024/40101 kB (2%)` and more words.

use std::time::Duration;

use dugong_topology::{Making, Way};

/// How much is done, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub done: u64,
    /// As far as can be told beforehand. 0: not known yet.
    pub total: u64,
}

impl Progress {
    /// What a line says, if it is about progress.
    pub(super) fn heard(line: &str) -> Option<Self> {
        let (numbers, _) = line.split_once(" kB")?;
        let (done, total) = numbers.trim().split_once('/')?;
        let bytes = |text: &str| text.parse::<u64>().ok()?.checked_mul(1024);
        Some(Self { done: bytes(done)?, total: bytes(total)? })
    }

    /// The same for others, after so long.
    pub(super) fn told(&self, way: Way, elapsed: Duration) -> Making {
        let total_bytes = (self.total > 0).then_some(self.total);
        let rest = self.total.saturating_sub(self.done);
        // A pace that is made of nothing says nothing.
        let seconds_left = total_bytes.filter(|_| self.done > 0).and_then(|_| {
            let millis = elapsed.as_millis().checked_mul(u128::from(rest))?;
            u64::try_from(millis / u128::from(self.done) / 1000).ok()
        });
        Making { way, done_bytes: self.done, total_bytes, seconds_left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_pace_so_far() {
        let told = |done, total| {
            let making = Progress { done, total }.told(Way::Copy, Duration::from_secs(10));
            (making.total_bytes, making.seconds_left)
        };
        assert_eq!(told(0, 0), (None, None));
        assert_eq!(told(0, 400), (Some(400), None));
        assert_eq!(told(100, 400), (Some(400), Some(30)));
        assert_eq!(told(410, 400), (Some(400), Some(0)));
    }

    #[test]
    fn progress_reads_as_the_programs_write_it() {
        let progress =
            |done: u64, total: u64| Some(Progress { done: done * 1024, total: total * 1024 });
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
            assert_eq!(Progress::heard(line), expected, "{line}");
        }
    }
}
