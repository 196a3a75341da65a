//! The environment's word over the file's: `DUGONG_PROXY_HOLD_TIMEOUT` for `hold_timeout`.
//!
//! One rule for every key: `DUGONG_PROXY_`, then the key in capital letters. A text or a number is
//! written as it is, a list with commas; an empty value says nothing.

use std::ffi::OsString;

use crate::config::keys::{self, KEYS, LISTS, NUMBERS};
use crate::config::{ConfigError, Settings};

pub(super) const PREFIX: &str = "DUGONG_PROXY_";

/// Names the file itself; the command line reads it.
const FILE: &str = "CONFIG";

/// What Kubernetes says of a service that is called `dugong-proxy`: `..._SERVICE_HOST`,
/// `..._PORT_6432_TCP` and the like. Not ours; no key begins like this.
const FOREIGN: [&str; 2] = ["SERVICE_", "PORT"];

/// The settings among these variables.
///
/// # Errors
///
/// A variable that says something that is not understood.
pub(super) fn settings(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Settings, ConfigError> {
    let mut table = toml::Table::new();
    for (name, value) in variables {
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if rest == FILE || FOREIGN.iter().any(|foreign| rest.starts_with(foreign)) {
            continue;
        }
        let key = rest.to_ascii_lowercase();
        let known =
            KEYS.into_iter().find(|known| *known == key && variable(known) == variable_of(rest));
        let Some(key) = known else {
            let nearest = keys::nearest(&key).map(variable);
            return Err(ConfigError::UnknownVariable { variable: variable_of(rest), nearest });
        };
        let malformed =
            |message: String| ConfigError::Variable { variable: variable(key), message };
        let value = value.to_str().ok_or_else(|| malformed("it is no UTF-8".to_owned()))?;
        if value.is_empty() {
            continue;
        }
        let value = read(key, value).map_err(malformed)?;
        // By itself first, for a message that names the variable.
        let alone = toml::Table::from_iter([(key.to_owned(), value.clone())]);
        alone.try_into::<Settings>().map_err(|error| malformed(error.message().to_owned()))?;
        table.insert(key.to_owned(), value);
    }
    table.try_into().map_err(|error: toml::de::Error| ConfigError::Variable {
        variable: format!("{PREFIX}*"),
        message: error.message().to_owned(),
    })
}

/// The variable that overrides a key.
pub(super) fn variable(key: &str) -> String {
    variable_of(&key.to_ascii_uppercase())
}

fn variable_of(rest: &str) -> String {
    format!("{PREFIX}{rest}")
}

fn read(key: &str, text: &str) -> Result<toml::Value, String> {
    if LISTS.contains(&key) {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Ok(toml::Value::Array(items.map(Into::into).collect()))
    } else if NUMBERS.contains(&key) {
        text.parse().map(toml::Value::Integer).map_err(|_| format!("{text:?} is no number"))
    } else {
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        settings(variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn a_variable_says_what_its_key_says_in_the_file() {
        #[rustfmt::skip]
        let cases = [
            ("DUGONG_PROXY_HOLD_TIMEOUT",   "5s",               "hold_timeout = \"5s\""),
            ("DUGONG_PROXY_MAX_HELD",       "7",                "max_held = 7"),
            ("DUGONG_PROXY_RESOLVERS",      "10.0.0.1, ::1",    "resolvers = [\"10.0.0.1\", \"::1\"]"),
            ("DUGONG_PROXY_READ_FALLBACK",  "refuse",           "read_fallback = \"refuse\""),
            ("DUGONG_PROXY_MAX_HELD",       "",                 ""), // says nothing
            ("DUGONG_PROXY_CONFIG",         "proxy.toml",       ""), // the file
            ("DUGONG_PROXY_PORT_6432_TCP",  "tcp://10.0.0.1",   ""), // Kubernetes
            ("DUGONG_PROXY_SERVICE_HOST",   "10.0.0.1",         ""),
            ("DUGONG_PROXYLISTEN",          "x",                ""), // somebody else's
        ];
        for (name, value, file) in cases {
            let expected: Settings = toml::from_str(file).unwrap();
            assert_eq!(of(&[(name, value)]).unwrap(), expected, "{name}={value}");
        }
        let both = [("DUGONG_PROXY_PRIMARY", "a:1"), ("DUGONG_PROXY_REPLICAS", "b:1,c:1")];
        let file = "primary = \"a:1\"\nreplicas = [\"b:1\", \"c:1\"]";
        assert_eq!(of(&both).unwrap(), toml::from_str(file).unwrap());
    }

    #[test]
    fn what_is_wrong_names_the_variable() {
        #[rustfmt::skip]
        let cases = [
            ("DUGONG_PROXY_HOLD_TIMOUT",    "5s", "unknown variable DUGONG_PROXY_HOLD_TIMOUT, did you mean DUGONG_PROXY_HOLD_TIMEOUT?"),
            ("DUGONG_PROXY_hold_timeout",   "5s", "did you mean DUGONG_PROXY_HOLD_TIMEOUT?"),
            ("DUGONG_PROXY_XYZ",            "5s", "unknown variable DUGONG_PROXY_XYZ; the known ones are DUGONG_PROXY_CONTROLLERS, "),
            ("DUGONG_PROXY_HOLD_TIMEOUT",   "5",  "DUGONG_PROXY_HOLD_TIMEOUT: \"5\" is no duration"),
            ("DUGONG_PROXY_MAX_HELD",       "a",  "DUGONG_PROXY_MAX_HELD: \"a\" is no number"),
            ("DUGONG_PROXY_MAX_HELD",       "-1", "DUGONG_PROXY_MAX_HELD: invalid value"),
            ("DUGONG_PROXY_CONTROLLERS",    "a",  "DUGONG_PROXY_CONTROLLERS: \"a\" is no URL of a controller"),
        ];
        for (name, value, expected) in cases {
            let error = of(&[(name, value)]).expect_err(name).to_string();
            assert!(error.contains(expected), "{name}={value}: {error}");
            assert!(!error.contains('\n'), "{name}={value}: {error}");
        }
    }

    #[test]
    fn every_key_can_be_said_and_none_looks_like_another_program_s() {
        for key in KEYS {
            let foreign =
                FOREIGN.iter().any(|foreign| key.to_ascii_uppercase().starts_with(foreign));
            assert!(!foreign && key.to_ascii_uppercase() != FILE, "{key}");
        }
        for key in LISTS.into_iter().chain(NUMBERS) {
            assert!(KEYS.contains(&key), "{key}");
        }
    }
}
