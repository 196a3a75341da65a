//! Which standbys a proxy leads more readers to: those that are near, and those that can do more.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use dugong_topology::{InstanceId, Topology};
use serde::Deserialize;

/// Weights that there are: clients of the one for each of another one's.
const WEIGHTS: RangeInclusive<u8> = 1..=100;

/// What was said of all standbys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preferences {
    /// Tried before all others. None: nobody is nearer than others.
    pub near: Vec<InstanceId>,
    /// 1 where nothing is said.
    pub weights: Vec<Weight>,
}

impl Preferences {
    /// Whether a standby is to be tried before those that are not.
    pub fn is_near(&self, id: &InstanceId) -> bool {
        self.near.contains(id)
    }

    /// How many clients it gets for each of a standby of which nothing is said.
    pub fn weight(&self, id: &InstanceId) -> u8 {
        self.weights.iter().find(|said| said.id == *id).map_or(1, |said| said.weight)
    }

    /// The first instance of which something is said that the cluster does not have.
    pub fn unknown(&self, topology: &Topology) -> Option<&InstanceId> {
        let weighed = self.weights.iter().map(|said| &said.id);
        let mut named = self.near.iter().chain(weighed);
        named.find(|id| topology.members().all(|(_, member)| member.id != **id))
    }
}

/// A standby's weight, as in `pg-2=3`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Weight {
    pub id: InstanceId,
    pub weight: u8,
}

/// A text that is no weight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no weight: write ID=WEIGHT, as in pg-2=3, with a whole number from {} to {}",
    WEIGHTS.start(), WEIGHTS.end()
)]
pub struct WeightError {
    text: String,
}

impl FromStr for Weight {
    type Err = WeightError;

    fn from_str(text: &str) -> Result<Self, WeightError> {
        let refused = || WeightError { text: text.to_owned() };
        let (id, weight) = text.split_once('=').ok_or_else(refused)?;
        let id = id.trim().parse().map_err(|_| refused())?;
        let weight = weight.trim().parse().ok().filter(|weight| WEIGHTS.contains(weight));
        Ok(Self { id, weight: weight.ok_or_else(refused)? })
    }
}

impl TryFrom<String> for Weight {
    type Error = WeightError;

    fn try_from(text: String) -> Result<Self, WeightError> {
        text.parse()
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.id, self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_an_instance_and_a_whole_number() {
        #[rustfmt::skip]
        let cases = [
            ("pg-2=3",      Some("pg-2=3")),
            (" pg-2 = 3 ",  Some("pg-2=3")),
            ("pg-2=1",      Some("pg-2=1")),
            ("pg-2=100",    Some("pg-2=100")),
            ("pg-2=0",      None),
            ("pg-2=101",    None),
            ("pg-2=0.5",    None),
            ("pg-2=",       None),
            ("pg-2",        None),
            ("=3",          None),
            ("PG 2=3",      None),
        ];
        for (text, expected) in cases {
            let weight = text.parse::<Weight>().ok().map(|weight| weight.to_string());
            assert_eq!(weight.as_deref(), expected, "{text:?}");
        }
    }
}
