//! Keys that are chosen once for all controllers of a launcher: `repair.keep_diverged=2`.
//!
//! Only sections that differ by no instance, and of which the launcher writes nothing itself; and what
//! it asks for by [`value`]. Values are written as in the environment.

use std::collections::BTreeMap;

use super::keys::SECTIONS;
use super::{env, error::ConfigProblem};

/// The sections whose keys may be chosen.
const OPEN: [&str; 3] = ["bootstrap", "timings", "repair"];

/// Further keys, in sections that the launcher writes.
const ASKED_FOR: [(&str, &str); 1] = [("postgres", "memory")];

/// `section.key` to its value.
pub type Chosen = BTreeMap<String, String>;

/// Takes `key=value` in; an empty value takes the key back.
///
/// # Errors
///
/// There is no such key. The value is looked at with the whole file.
pub fn choose(chosen: &mut Chosen, word: &str) -> Result<(), ConfigProblem> {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    if !known().any(|(section, known)| format!("{section}.{known}") == key) || !word.contains('=') {
        let keys: Vec<_> = known().map(|(section, key)| format!("{section}.{key}")).collect();
        return Err(ConfigProblem::NotChosen { word: word.to_owned(), known: keys.join(", ") });
    }
    if value.is_empty() {
        chosen.remove(key);
    } else {
        chosen.insert(key.to_owned(), value.to_owned());
    }
    Ok(())
}

/// What was chosen, as the end of a configuration file.
///
/// # Errors
///
/// A value of the wrong form.
pub fn sections(chosen: &Chosen) -> Result<String, ConfigProblem> {
    let mut text = String::new();
    for section in OPEN {
        let mut begun = false;
        for (_, key) in known().filter(|(of, _)| *of == section) {
            let Some(value) = chosen.get(&format!("{section}.{key}")) else { continue };
            let value = read(section, key, value)?;
            if !std::mem::replace(&mut begun, true) {
                text.push_str(&format!("\n[{section}]\n"));
            }
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    Ok(text)
}

/// What was chosen for one key, as a configuration file has it.
///
/// # Errors
///
/// A value of the wrong form.
pub fn value(
    chosen: &Chosen,
    section: &str,
    key: &str,
) -> Result<Option<toml::Value>, ConfigProblem> {
    let word = chosen.get(&format!("{section}.{key}"));
    word.map(|word| read(section, key, word)).transpose()
}

fn read(section: &str, key: &str, word: &str) -> Result<toml::Value, ConfigProblem> {
    env::read(section, key, word).map_err(|message| {
        let (key, message) = (format!("{section}.{key}"), message.replace('\n', ", "));
        ConfigProblem::Chosen { key, message }
    })
}

fn known() -> impl Iterator<Item = (&'static str, &'static str)> {
    let open = SECTIONS.into_iter().filter(|(section, _)| OPEN.contains(section));
    let open = open.flat_map(|(section, keys)| keys.iter().map(move |key| (section, *key)));
    open.chain(ASKED_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_is_written_as_a_file_has_it_and_can_be_taken_back() {
        let mut chosen = Chosen::new();
        for word in ["repair.keep_diverged=2", "timings.link_ttl=1s", "repair.copy_max_rate=9MB"] {
            choose(&mut chosen, word).unwrap();
        }
        let text = sections(&chosen).unwrap();
        let expected = "\n[timings]\nlink_ttl = \"1s\"\n\n[repair]\ncopy_max_rate = \"9MB\"\n\
                        keep_diverged = 2\n";
        assert_eq!(text, expected);
        choose(&mut chosen, "repair.keep_diverged=").unwrap();
        assert!(!sections(&chosen).unwrap().contains("keep_diverged"));
    }

    #[test]
    fn what_is_no_key_or_no_value_is_refused_in_words() {
        let refused = |word: &str| {
            let mut chosen = Chosen::new();
            let outcome = choose(&mut chosen, word).and_then(|()| sections(&chosen));
            outcome.unwrap_err().to_string()
        };
        for word in ["repair.keep_diverge=2", "http.listen=all", "repair.keep_diverged", "=", ""] {
            assert!(refused(word).contains("known are bootstrap.method, "), "{}", refused(word));
        }
        let no_number = refused("repair.keep_diverged=some");
        assert!(no_number.starts_with("repair.keep_diverged: "), "{no_number}");
    }
}
