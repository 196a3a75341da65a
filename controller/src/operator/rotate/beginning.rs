//! With what an exchange begins: from nothing, or from what one before it has left.

use std::collections::BTreeSet;

use dugong_topology::InstanceId;

use crate::credentials::{ExchangeId, Stage};
use crate::publish::credentials::Standing;

/// Where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Nothing is under way.
    Fresh,
    /// This one is, and `holder` can tell its passwords.
    Resume { id: ExchangeId, holder: InstanceId },
}

/// Decides.
///
/// # Errors
///
/// Some instance has passwords that nobody else has, and what to do about it.
pub(super) fn beginning(standings: &[Standing]) -> Result<Beginning, String> {
    let under_way = || {
        standings.iter().filter_map(|standing| {
            let (id, stage) = standing.exchange.as_ref()?;
            Some((id, *stage, &standing.instance))
        })
    };
    let is_used = |id: &ExchangeId| {
        under_way().any(|(other, stage, _)| other == id && stage == Stage::Used)
            || standings.iter().any(|it| it.exchange.is_none() && it.exchanged.as_ref() == Some(id))
    };
    // Two that were begun at the same time: the one that somebody uses, or else the same for all.
    let chosen = under_way().min_by_key(|(id, ..)| (!is_used(id), (*id).clone()));
    let id = chosen.map(|(id, ..)| id);
    let finished =
        |it: &&Standing| it.exchange.is_none() && id.is_some() && it.exchanged.as_ref() == id;
    let rest = || standings.iter().filter(|it| !finished(it));
    let bases: BTreeSet<_> = rest().map(|standing| &standing.exchanged).collect();
    if bases.len() > 1 {
        let words = rest().map(|standing| match &standing.exchanged {
            Some(id) => format!("{} those of exchange {id}", standing.instance),
            None => format!("{} the cluster's first", standing.instance),
        });
        return Err(format!(
            "the instances do not have the same passwords ({}): copy the credentials.json of one \
             that is well, as `dugong status` shows, over that of the other (its controller takes it \
             up within seconds), and say this once more",
            words.collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(match chosen {
        Some((id, _, holder)) => Beginning::Resume { id: id.clone(), holder: holder.clone() },
        None => Beginning::Fresh,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An instance: the exchange that it has finished, and the one that it is at.
    fn standing(name: &str, finished: &str, under_way: Option<(&str, Stage)>) -> Standing {
        let id = |text: &str| -> ExchangeId { serde_json::from_str(&format!("{text:?}")).unwrap() };
        Standing {
            instance: name.parse().unwrap(),
            roles: [].into(),
            exchanged: (!finished.is_empty()).then(|| id(finished)),
            exchange: under_way.map(|(text, stage)| (id(text), stage)),
            kinds: [].into(),
            server: None,
        }
    }

    #[test]
    fn whatever_was_left_is_brought_to_its_end_and_nobody_is_left_behind() {
        use Stage::{Known, Used};
        #[rustfmt::skip]
        let cases = [
            // what is so                     pg-1                          pg-2                          what is done
            ("all have the first",            ("", None),                   ("", None),                   Some(None)),
            ("all have the same",             ("a", None),                  ("a", None),                  Some(None)),
            ("one knows it",                  ("a", Some(("b", Known))),    ("a", None),                  Some(Some("b"))),
            ("one uses it",                   ("", Some(("b", Known))),     ("", Some(("b", Used))),      Some(Some("b"))),
            ("one has finished it",           ("b", None),                  ("a", Some(("b", Used))),     Some(Some("b"))),
            ("one was away when it was used", ("b", None),                  ("a", Some(("b", Known))),    Some(Some("b"))),
            ("two were begun",                ("a", Some(("c", Known))),    ("a", Some(("b", Known))),    Some(Some("b"))),
            ("two, and one is used",          ("a", Some(("c", Used))),     ("a", Some(("b", Known))),    Some(Some("c"))),
            ("one missed the last",           ("a", None),                  ("b", None),                  None),
            ("one missed two",                ("a", Some(("c", Used))),     ("b", Some(("c", Used))),     None),
            ("one missed the one before",     ("", None),                   ("a", Some(("b", Known))),    None),
        ];
        for (what, one, two, expected) in cases {
            let all = [standing("pg-1", one.0, one.1), standing("pg-2", two.0, two.1)];
            let found = beginning(&all).ok().map(|beginning| match beginning {
                Beginning::Fresh => None,
                Beginning::Resume { id, .. } => Some(id.to_string()),
            });
            assert_eq!(found, expected.map(|id| id.map(str::to_owned)), "{what}");
        }
    }
}
