//! `primary` in [bootstrap]: whom a new cluster follows before it begins.
//!
//! In libpq's form, `host=10.0.0.9 user=postgres sslmode=verify-full`, so that everything that libpq
//! knows of TLS and of networks can be said.
//!
//! **Invariant:** no secret is in it: it is shown to whoever may see processes.
//!
//! Source: PostgreSQL manual, "Connection Strings", "Keyword/Value".

use std::fmt;
use std::path::PathBuf;

use super::error::ConfigProblem;

/// A primary that is nobody's of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// As they were written; each name once.
    pub parameters: Vec<(String, String)>,
    /// Holds the password alone, and nobody else may read it; absolute.
    pub password_file: Option<PathBuf>,
}

/// For people: `10.0.0.9:5432`.
impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.get("host").or_else(|| self.get("hostaddr")).unwrap_or_default();
        write!(f, "{host}:{}", self.get("port").unwrap_or("5432"))
    }
}

/// What cannot be said, and why.
#[rustfmt::skip]
const REFUSED: [(&str, &str); 11] = [
    ("password",                  "write it alone into a file of mode 0600, and name that in password_file"),
    ("sslpassword",               "give the key a file of mode 0600 instead"),
    ("passfile",                  "name the file of the password in password_file"),
    ("service",                   "write what that service says"),
    ("servicefile",               "write what that service says"),
    ("dbname",                    "what is followed is the whole server"),
    ("replication",               "it is set as it must be"),
    ("application_name",          "it is set, so that the followers can be told from each other"),
    ("fallback_application_name", "it is set, so that the followers can be told from each other"),
    ("options",                   "set what you need for the role, by ALTER ROLE"),
    ("target_session_attrs",      "name the host of the primary itself"),
];

impl Foreign {
    pub(super) fn checked(
        text: &str,
        password_file: Option<PathBuf>,
    ) -> Result<Self, ConfigProblem> {
        let wrong = |why: String| ConfigProblem::Primary { why };
        if let Some(value) = password_file.as_ref().filter(|path| !path.is_absolute()) {
            let (key, value) = ("bootstrap.password_file", value.clone());
            return Err(ConfigProblem::NotAbsolute { key, value });
        }
        let parameters = parse(text).map_err(wrong)?;
        for (name, _) in &parameters {
            if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| refused == name) {
                return Err(wrong(format!("{name} cannot be said there: {why}")));
            }
        }
        let this = Self { parameters, password_file };
        let hosts = [this.get("host"), this.get("hostaddr")];
        if hosts.iter().all(Option::is_none) || this.get("user").is_none() {
            return Err(wrong("it must name a host and a user".to_owned()));
        }
        if hosts.into_iter().flatten().any(|host| host.contains(',')) {
            return Err(wrong("one host only: that of the primary".to_owned()));
        }
        Ok(this)
    }

    /// The value of a parameter, if it was written.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Names and values; a value may be in quotes, and have what is special after a backslash.
fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return Err("write it as in \"host=10.0.0.9 port=5432 user=postgres\"".to_owned());
    }
    let mut found: Vec<(String, String)> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((name, after)) = rest.split_once('=') else {
            return Err(format!("{rest:?} is no name=value"));
        };
        let name = name.trim_end();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            return Err(format!("{name:?} is no name of a parameter"));
        }
        if found.iter().any(|(known, _)| known == name) {
            return Err(format!("{name} is there twice"));
        }
        let (value, after) = value_of(after.trim_start())?;
        found.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(found)
}

/// The first value of `text`, and what comes after it.
fn value_of(text: &str) -> Result<(String, &str), String> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut letters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\n' | '\0' => return Err("it has a line break or a NUL".to_owned()),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            '\'' if quoted => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            letter if !quoted && letter.is_whitespace() => {
                return Ok((value, text.get(at..).unwrap_or_default()));
            }
            letter => value.push(letter),
        }
    }
    if quoted { Err("a quote is not closed".to_owned()) } else { Ok((value, "")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_reads_as_libpq_reads_it() {
        let text = r"host = 10.0.0.9 port=5433 user='it\'s me' sslrootcert='/etc/old ca.crt'";
        let foreign = Foreign::checked(text, None).unwrap();
        assert_eq!(foreign.to_string(), "10.0.0.9:5433");
        assert_eq!(foreign.get("user"), Some("it's me"));
        assert_eq!(foreign.get("sslrootcert"), Some("/etc/old ca.crt"));
        assert_eq!(Foreign::checked("hostaddr=::1 user=a", None).unwrap().to_string(), "::1:5432");
    }

    #[test]
    fn what_cannot_be_said_is_refused_with_the_way_out() {
        #[rustfmt::skip]
        let cases = [
            ("host=a user=b password=secret",  "name that in password_file"),
            ("host=a user=b dbname=c",         "the whole server"),
            ("host=a",                         "must name a host and a user"),
            ("user=a",                         "must name a host and a user"),
            ("host=a,b user=c",                "one host only"),
            ("host=a user=b user=c",           "user is there twice"),
            ("host=a user='b",                 "a quote is not closed"),
            ("host=a user",                    "\"user\" is no name=value"),
            ("postgresql://b@a",               "write it as in"),
        ];
        for (text, expected) in cases {
            let refused = Foreign::checked(text, None).unwrap_err().to_string();
            assert!(refused.contains(expected), "{text}: {refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
