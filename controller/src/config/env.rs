//! The environment's word over the file's: `DUGONG_HTTP_LISTEN` for `listen` in `[http]`.
//!
//! One rule for every key: `DUGONG_`, the section, the key, in capital letters. The top of the file
//! is the section `CONTROLLER`, since `DUGONG_DIR` and the like mean something else. A text is
//! written as it is, a list with commas, anything else as in the file.

use std::ffi::{OsStr, OsString};

use super::error::{ConfigProblem, Nearest};
use super::keys::{self, SECTIONS};

/// Keys whose values are lists.
const LISTS: [(&str, &str); 3] =
    [("postgres", "networks"), ("postgres", "plain_networks"), ("store", "endpoints")];

/// Keys whose values are neither texts nor lists.
const OTHERS: [(&str, &str); 4] = [
    ("", "bootstrap_size"),
    ("", "one_node"),
    ("postgres", "settings"),
    ("repair", "keep_diverged"),
];

/// One variable that overrides a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Override {
    pub variable: String,
    pub section: &'static str,
    pub key: &'static str,
    value: toml::Value,
}

/// Whether a variable is read as a part of the configuration.
pub fn is_override(variable: &OsStr) -> bool {
    variable.to_str().is_some_and(|name| sections_of(name).next().is_some())
}

/// The overrides among `variables`, in the order of the sections.
pub(super) fn overrides(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<Override>, ConfigProblem> {
    let mut found = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| sections_of(name).next().is_some()) else {
            continue;
        };
        let malformed = |message: String| ConfigProblem::Variable {
            variable: name.to_owned(),
            message: message.trim().replace('\n', ", "),
        };
        let value = value.to_str().ok_or_else(|| malformed("it is no UTF-8".to_owned()))?;
        let (section, key) = key_of(name)?;
        let value = read(section, key, value).map_err(malformed)?;
        found.push(Override { variable: name.to_owned(), section, key, value });
    }
    let place = |section| SECTIONS.iter().position(|(known, _)| *known == section);
    found.sort_by_key(|found| (place(found.section), found.key));
    Ok(found)
}

impl Override {
    /// Puts it in the place of what the file says. A section that is no table is left as it is:
    /// the file is refused for that.
    pub(super) fn apply(&self, file: &mut toml::Table) {
        let table = match self.section {
            "" => Some(file),
            section => {
                let empty = || toml::Value::Table(toml::Table::new());
                file.entry(section).or_insert_with(empty).as_table_mut()
            }
        };
        if let Some(table) = table {
            table.insert(self.key.to_owned(), self.value.clone());
        }
    }
}

/// The variable that overrides a key.
pub(super) fn variable(section: &str, key: &str) -> String {
    format!("{}{}", prefix(section), key.to_ascii_uppercase())
}

fn prefix(section: &str) -> String {
    let section = if section.is_empty() { "controller" } else { section };
    format!("DUGONG_{}_", section.to_ascii_uppercase())
}

/// The sections that a variable may be about, by its first words.
fn sections_of(name: &str) -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    SECTIONS.into_iter().filter(move |(section, _)| name.starts_with(&prefix(section)))
}

fn key_of(name: &str) -> Result<(&'static str, &'static str), ConfigProblem> {
    let known =
        sections_of(name).flat_map(|(section, keys)| keys.iter().map(move |k| (section, k)));
    // A section is no key of the top of the file that a variable could hold.
    let is_section = |key: &str| SECTIONS.iter().any(|(section, _)| *section == key);
    let exact = known
        .map(|(section, key)| (section, *key))
        .find(|(section, key)| !is_section(key) && variable(section, key) == name);
    exact.ok_or_else(|| {
        let (section, keys) = sections_of(name).next().unwrap_or(SECTIONS[0]);
        let key = name.trim_start_matches(&prefix(section)).to_ascii_lowercase();
        let nearest = match keys::nearest(&key, keys) {
            Nearest::Spelling(key) => format!("; did you mean {}?", variable(section, key)),
            Nearest::Section(section) if !is_section(&key) => {
                format!("; did you mean {}?", variable(section, &key))
            }
            Nearest::Section(_) | Nearest::None(_) => {
                let names: Vec<_> =
                    keys.iter().filter(|k| !is_section(k)).map(|k| variable(section, k)).collect();
                format!("; known are {}", names.join(", "))
            }
        };
        ConfigProblem::UnknownVariable { variable: name.to_owned(), nearest }
    })
}

pub(super) fn read(section: &str, key: &str, text: &str) -> Result<toml::Value, String> {
    if LISTS.contains(&(section, key)) {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Ok(toml::Value::Array(items.map(Into::into).collect()))
    } else if OTHERS.contains(&(section, key)) {
        let file: toml::Table =
            toml::from_str(&format!("value = {text}")).map_err(|e| e.message().to_owned())?;
        file.get("value").cloned().ok_or_else(|| "it is empty".to_owned())
    } else {
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::example;
    use super::*;

    fn of(name: &str, value: &str) -> Result<Vec<Override>, ConfigProblem> {
        overrides([(name.into(), value.into())].into_iter())
    }

    #[test]
    fn a_variable_overrides_its_key_whatever_its_kind() {
        #[rustfmt::skip]
        let cases = [
            ("DUGONG_CONTROLLER_INSTANCE",       "pg-2",             "instance = \"pg-2\""),
            ("DUGONG_CONTROLLER_BOOTSTRAP_SIZE", "3",                "bootstrap_size = 3"),
            ("DUGONG_CONTROLLER_ONE_NODE",       "true",             "one_node = true"),
            ("DUGONG_HTTP_LISTEN",               "10.0.0.2:8008",    "[http]\nlisten = \"10.0.0.2:8008\""),
            ("DUGONG_POSTGRES_NETWORKS",         "10.0.0.0/24, ::1", "[postgres]\nnetworks = [\"10.0.0.0/24\", \"::1\"]"),
            ("DUGONG_STORE_ENDPOINTS",           "http://a:1",       "[store]\nendpoints = [\"http://a:1\"]"),
            ("DUGONG_POSTGRES_NETWORKS",         "",                 "[postgres]\nnetworks = []"),
            ("DUGONG_POSTGRES_SETTINGS",         "{ a = \"b\" }",    "[postgres]\nsettings = { a = \"b\" }"),
            ("DUGONG_TIMINGS_LINK_TTL",          "2s",               "[timings]\nlink_ttl = \"2s\""),
        ];
        for (name, value, expected) in cases {
            let mut file = toml::Table::new();
            of(name, value).unwrap()[0].apply(&mut file);
            assert_eq!(file, toml::from_str(expected).unwrap(), "{name}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_what_is_none_of_ours_is_left_alone() {
        #[rustfmt::skip]
        let cases = [
            ("DUGONG_HTTP_LISTN",           "x",   Some("unknown variable DUGONG_HTTP_LISTN; did you mean DUGONG_HTTP_LISTEN?")),
            ("DUGONG_HTTP_SESSION_TTL",     "x",   Some("did you mean DUGONG_STORE_SESSION_TTL?")),
            ("DUGONG_CONTROLLER_STORE",     "x",   Some("known are DUGONG_CONTROLLER_CLUSTER, ")),
            ("DUGONG_CONTROLLER_ONE_NODE",  "yes", Some("DUGONG_CONTROLLER_ONE_NODE: ")),
            ("DUGONG_DIR",                  "x",   None),
            ("DUGONG_LOG",                  "x",   None),
            ("DUGONG_PROXY_LISTEN",         "x",   None),
            ("PATH",                        "x",   None),
        ];
        for (name, value, expected) in cases {
            match (of(name, value), expected) {
                (Ok(found), None) => assert_eq!(found, [], "{name}"),
                (Err(problem), Some(words)) => {
                    let message = problem.to_string();
                    assert!(message.contains(words), "{name} is answered with {message:?}");
                }
                (found, expected) => panic!("{name}: {found:?}, not {expected:?}"),
            }
            assert_eq!(is_override(OsStr::new(name)), expected.is_some(), "{name}");
        }
    }

    #[test]
    fn the_kinds_of_all_keys_are_known() {
        for line in example() {
            let file: toml::Table = toml::from_str(line.text).unwrap();
            let place = (line.section, line.key);
            let (list, other) = (LISTS.contains(&place), OTHERS.contains(&place));
            let value = &file[line.key];
            assert_eq!(list, value.is_array(), "{place:?} is {value}");
            assert_eq!(other, !value.is_array() && !value.is_str(), "{place:?} is {value}");
        }
    }
}
