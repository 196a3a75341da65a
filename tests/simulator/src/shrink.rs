//! From a scenario that fails to a smaller one that fails as well.

use crate::bug::Bug;
use crate::fault::Scenario;
use crate::world::{Story, run};

/// Leaves out faults, the later ones first, as long as what is left still breaks a promise.
///
/// Every other chance follows from the seed and from what happens, so that leaving out a fault
/// changes the rest of the run: what is found need not be the smallest, but it is a real run.
pub fn shrunk(scenario: &Scenario, bug: Option<Bug>) -> Scenario {
    let mut best = scenario.clone();
    let mut shrinking = true;
    while shrinking {
        shrinking = false;
        for index in (0..best.faults.len()).rev() {
            let mut smaller = best.clone();
            smaller.faults.remove(index);
            if run(&smaller, bug, Story::Untold).violation.is_some() {
                best = smaller;
                shrinking = true;
            }
        }
    }
    best
}
