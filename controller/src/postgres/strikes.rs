//! Whether a disk that is written to now and then is sick: pure, the samples and the time come in.
//!
//! A busy disk is slow, and a sick one is not told from it at once. So a write that takes longer than
//! the deadline is a strike, and it takes two in a row, of one write or of two, or two writes that
//! fail. And it takes two that succeed in time before the disk counts as well again.
//!
//! **Invariant:** time counts only as far as somebody looked: a process that was paused finds no disk
//! sick for that.

use std::time::Duration;

/// So many strikes in a row make a disk sick, and so many good writes make it well.
const IN_A_ROW: u32 = 2;

/// Between two looks no more than this counts.
const LOOK: Duration = Duration::from_secs(1);

/// A write, numbered from 1 on, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub number: u64,
    pub stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    UnderWay,
    /// It is on the disk, or there was nothing to write to.
    Done,
    /// In words.
    Failed(String),
}

/// What is known of one disk.
#[derive(Debug)]
pub(super) struct Strikes {
    deadline: Duration,
    number: u64,
    /// How long the present write was seen under way.
    waited: Duration,
    /// Whether what became of the present write was counted.
    counted: bool,
    strikes: u32,
    good: u32,
    sick: Option<String>,
}

impl Strikes {
    pub(super) fn new(deadline: Duration) -> Self {
        let waited = Duration::ZERO;
        Self { deadline, number: 0, waited, counted: true, strikes: 0, good: 0, sick: None }
    }

    /// Takes in a look at the newest write, `passed` after the look before.
    pub(super) fn see(&mut self, sample: &Sample, passed: Duration) {
        if sample.number != self.number {
            self.number = sample.number;
            self.waited = Duration::ZERO;
            self.counted = false;
        }
        let late = |waited: Duration| waited.as_nanos() / self.deadline.as_nanos().max(1);
        match &sample.stage {
            Stage::UnderWay => {
                let before = late(self.waited);
                self.waited += passed.min(LOOK);
                if late(self.waited) > before {
                    self.strike(format!(
                        "nothing was written within {:.0} s",
                        self.waited.as_secs_f64()
                    ));
                }
            }
            Stage::Done if late(self.waited) == 0 && !self.counted => self.succeed(),
            Stage::Failed(why) if !self.counted => self.strike(why.clone()),
            Stage::Done | Stage::Failed(_) => (),
        }
        self.counted |= sample.stage != Stage::UnderWay;
    }

    /// Why the disk is sick, in words; none where it is well.
    pub(super) fn sick(&self) -> Option<&str> {
        self.sick.as_deref()
    }

    fn strike(&mut self, why: String) {
        self.good = 0;
        self.strikes += 1;
        if self.strikes >= IN_A_ROW && self.sick.is_none() {
            self.sick = Some(why);
        }
    }

    fn succeed(&mut self) {
        self.strikes = 0;
        self.good += 1;
        if self.good >= IN_A_ROW {
            self.sick = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One look after another, half a second apart: `.` under way, `+` done, `!` failed; a space begins
    /// the next write. Each letter shows whether the disk is sick after it.
    fn seen(looks: &str) -> String {
        let mut strikes = Strikes::new(Duration::from_secs(1));
        let mut number = 1;
        let mut found = String::new();
        for look in looks.chars() {
            let stage = match look {
                '.' => Stage::UnderWay,
                '+' => Stage::Done,
                '!' => Stage::Failed("it is read-only".to_owned()),
                _ => {
                    number += 1;
                    found.push(' ');
                    continue;
                }
            };
            strikes.see(&Sample { number, stage }, Duration::from_millis(500));
            found.push(if strikes.sick().is_some() { 'S' } else { '-' });
        }
        found
    }

    #[test]
    fn two_strikes_in_a_row_make_a_disk_sick_and_two_good_writes_well() {
        #[rustfmt::skip]
        let cases = [
            // what is so                            looks                   sick
            ("all is well",                          "+ + + .+ +",           "- - - -- -"),
            ("one write is late",                    "...+ + + +",           "---- - - -"),
            ("one write hangs",                      "......",               "---SSS"),
            ("one hangs, and is done at last",       ".....++ + +",          "---SSSS S -"),
            ("two in a row are late",                "...+ ...+ + +",        "---- -SSS S -"),
            ("two are late, not in a row",           "...+ + ...+ +",        "---- - ---- -"),
            ("a burst of slow ones that work",       ".+ .+ .+ .+ .+",       "-- -- -- -- --"),
            ("one fails",                            "! + !! +",             "- - -- -"),
            ("two in a row fail",                    "! ! + +",              "- S S -"),
            ("one fails, the next one hangs",        "! ...",                "- -SS"),
            ("it is well, and sick again",           "! ! + + ....",         "- S S - ---S"),
            ("good and bad in turn, once sick",      "! ! + ! + ! + +",      "- S S S S S S -"),
        ];
        for (what, looks, sick) in cases {
            assert_eq!(seen(looks), sick, "{what}: {looks}");
        }
    }

    #[test]
    fn a_process_that_was_paused_finds_no_disk_sick_for_that() {
        let mut strikes = Strikes::new(Duration::from_secs(10));
        let under_way = Sample { number: 1, stage: Stage::UnderWay };
        for _ in 0..9 {
            strikes.see(&under_way, Duration::from_secs(3600));
            assert_eq!(strikes.sick(), None);
        }
    }
}
