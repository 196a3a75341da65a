//! In which order to try standbys: a function of what each has to do, and of two draws.

use std::cmp::Ordering;

/// A standby that is fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Clients that wait for its answers.
    pub(super) busy: u64,
    /// All of its clients: what decides while nobody waits.
    pub(super) sessions: u64,
    /// Of what the others get: above 0, and 1 as a rule.
    pub(super) share: f64,
    /// It refused a client just now.
    pub(super) is_left_out: bool,
    /// The operator wants it tried before those that are not.
    pub(super) is_near: bool,
}

impl Candidate {
    /// Among whom it is chosen: the least first.
    fn rank(&self) -> (bool, bool) {
        (self.is_left_out, !self.is_near)
    }
}

/// The candidates, by index, in the order in which to try them.
///
/// `draw` gives a number below its argument, which is not 0.
pub(super) fn order(candidates: &[Candidate], mut draw: impl FnMut(usize) -> usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    // Whoever comes first in a tie is a matter of chance, or one of them would get all the tries.
    for last in (1..order.len()).rev() {
        order.swap(last, draw(last + 1));
    }
    let rank = |index: &usize| candidates[*index].rank();
    let by_cost = |a: &usize, b: &usize| cost(&candidates[*a]).order(cost(&candidates[*b]));
    order.sort_by_key(rank);
    for equals in order.chunk_by_mut(|a, b| rank(a) == rank(b)).filter(|equals| equals.len() > 1) {
        // In any order, so the first two are two draws.
        equals[..2].sort_by(by_cost);
        equals[1..].sort_by(by_cost);
    }
    order
}

/// What one more client would have to wait for there.
#[derive(Clone, Copy)]
struct Cost {
    busy: f64,
    sessions: f64,
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53 clients")]
fn cost(of: &Candidate) -> Cost {
    Cost { busy: (of.busy + 1) as f64 / of.share, sessions: (of.sessions + 1) as f64 / of.share }
}

impl Cost {
    fn order(self, other: Self) -> Ordering {
        self.busy.total_cmp(&other.busy).then(self.sessions.total_cmp(&other.sessions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Candidate =
        Candidate { busy: 0, sessions: 0, share: 1.0, is_left_out: false, is_near: false };

    fn busy(busy: u64) -> Candidate {
        Candidate { busy, ..IDLE }
    }

    /// How often each is the first of 3,000 orders.
    fn firsts(candidates: &[Candidate]) -> Vec<usize> {
        let mut random = fastrand::Rng::with_seed(7);
        let mut firsts = vec![0; candidates.len()];
        for _ in 0..3_000 {
            firsts[order(candidates, |count| random.usize(..count))[0]] += 1;
        }
        firsts
    }

    #[test]
    fn of_two_that_are_drawn_the_less_busy_one_is_first() {
        let sessions = |sessions| Candidate { sessions, ..IDLE };
        let slow = Candidate { share: 0.1, ..IDLE };
        let out = Candidate { is_left_out: true, ..IDLE };
        let near = Candidate { is_near: true, ..IDLE };
        let strong = Candidate { share: 3.0, ..IDLE };
        #[rustfmt::skip]
        let cases = [
            ("the less busy one",           vec![busy(3), busy(2)],             1),
            ("work before sessions",        vec![Candidate { sessions: 9, ..busy(1) }, Candidate { sessions: 1, ..busy(2) }], 0),
            ("sessions in a tie",           vec![sessions(5), sessions(4)],     1),
            ("not the one that is back",    vec![busy(5), slow],                0),
            ("but if the others are busy",  vec![busy(30), slow],               1),
            ("not the one that refused",    vec![busy(99), out],                0),
            ("the less busy one of those",  vec![Candidate { busy: 2, ..out }, out], 1),
            ("the only one",                vec![out],                          0),
            ("one that is near",            vec![busy(0), Candidate { busy: 99, ..near }], 1),
            ("the less busy one of those",  vec![Candidate { busy: 1, ..near }, IDLE, near], 2),
            ("but not one that refused",    vec![busy(9), Candidate { is_left_out: true, ..near }], 0),
            ("the one that can do more",    vec![busy(1), Candidate { busy: 4, ..strong }], 1),
            ("until it has as much to do",  vec![busy(1), Candidate { busy: 6, ..strong }], 0),
        ];
        for (what, candidates, expected) in cases {
            assert_eq!(firsts(&candidates)[expected], 3_000, "{what}");
        }
    }

    #[test]
    fn the_busiest_of_three_is_never_first_and_the_others_share() {
        let firsts = firsts(&[busy(2), busy(9), busy(1)]);
        assert_eq!(firsts[1], 0);
        // The middle one is first only where the least busy one was not drawn: one time in three.
        assert!((900..1_100).contains(&firsts[0]), "{firsts:?}");
    }

    #[test]
    fn equals_get_equal_shares() {
        for first in firsts(&[IDLE; 3]) {
            assert!((900..1_100).contains(&first), "{first}");
        }
    }

    #[test]
    fn everybody_is_tried_and_who_refused_comes_last() {
        let out = Candidate { is_left_out: true, ..IDLE };
        let candidates = [out, busy(4), busy(1), out, busy(2)];
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100 {
            let mut order = order(&candidates, |count| random.usize(..count));
            assert!(order[3..].iter().all(|index| candidates[*index].is_left_out), "{order:?}");
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3, 4]);
        }
    }
}
