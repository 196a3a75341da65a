//! The known keys of each section, and what a person probably meant by another one.
//!
//! What each key is for, and its default, is said in one place: `controller.toml.example`.

use super::error::{ConfigProblem, Nearest};

/// Sections with their keys, the top of the file first, in the order of the manual.
#[rustfmt::skip]
pub(super) const SECTIONS: [(&str, &[&str]); 8] = [
    ("", &["cluster", "instance", "dir", "credentials", "bootstrap_size", "one_node",
           "bootstrap", "postgres", "http", "store", "dns", "timings",
           "repair"]),
    ("bootstrap", &["method", "command", "data", "primary", "password_file"]),
    ("postgres", &["bin", "listen", "memory", "networks", "plain_networks", "tls_cert", "tls_key",
                   "tls_ca", "replication_auth", "settings"]),
    ("http", &["listen", "tls_cert", "tls_key", "client_ca", "token_file", "read_token_file"]),
    ("store", &["kind", "path", "endpoints", "prefix", "user", "password_file", "ca", "cert", "key",
                "request_timeout", "session_ttl"]),
    ("dns", &["listen", "zone", "ttl"]),
    ("timings", &["link_ttl", "heartbeat_interval", "sync_timeout", "restart_after",
                  "stuck_after", "forget_after", "storage_deadline"]),
    ("repair", &["rewind_timeout", "copy_max_rate", "keep_diverged", "damaged"]),
];

/// Refuses the first key that no section knows.
pub(super) fn check(file: &toml::Table) -> Result<(), ConfigProblem> {
    for (section, known) in SECTIONS {
        let table = if section.is_empty() {
            Some(file)
        } else {
            // A section that is no table is refused where its value is read.
            file.get(section).and_then(toml::Value::as_table)
        };
        let unknown = table
            .into_iter()
            .flat_map(toml::Table::keys)
            .find(|key| !known.contains(&key.as_str()));
        if let Some(key) = unknown {
            let place = match section {
                "" => "at the top of the file".to_owned(),
                section => format!("in [{section}]"),
            };
            return Err(ConfigProblem::UnknownKey {
                key: key.clone(),
                section: place,
                nearest: nearest(key, known),
            });
        }
    }
    Ok(())
}

pub(super) fn nearest(key: &str, known: &'static [&'static str]) -> Nearest {
    let elsewhere = SECTIONS.iter().find(|(_, keys)| keys.contains(&key));
    if let Some((section, _)) = elsewhere {
        return Nearest::Section(section);
    }
    let likeness = |candidate: &str| strsim::jaro_winkler(key, candidate);
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best {
        // Found by trying: a letter left out, doubled or swapped is above 0.85.
        Some(candidate) if likeness(candidate) > 0.8 => Nearest::Spelling(candidate),
        Some(_) | None => Nearest::None(known),
    }
}

/// The manual, and the defaults, for people and programs.
const EXAMPLE: &str = include_str!("../../controller.toml.example");

/// One key in the manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub section: &'static str,
    pub key: &'static str,
    /// The line, without what makes it a comment.
    pub text: &'static str,
    pub said: Said,
}

/// What the manual's line of a key shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A value that somebody has to choose.
    Required,
    /// What counts where the file says nothing.
    Default,
    /// The same, where the store is etcd.
    DefaultOfEtcd,
    /// The form of a value; nothing counts where the file says nothing.
    None,
}

impl Line {
    /// The value as the manual writes it.
    pub(super) fn value(&self) -> &'static str {
        let value = self.text.split_once('=').map_or("", |(_, value)| value);
        value.split_once(" # ").map_or(value, |(value, _)| value).trim()
    }
}

/// The keys of the manual, in its order.
pub(super) fn example() -> impl Iterator<Item = Line> {
    let mut section = "";
    EXAMPLE.lines().filter_map(move |line| {
        let text = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
            return None;
        }
        let (key, _) = text.split_once(" = ")?;
        let is_key = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let said = if !line.starts_with('#') {
            Said::Required
        } else if text.ends_with("# none by default") {
            Said::None
        } else if text.ends_with("# for etcd") {
            Said::DefaultOfEtcd
        } else {
            Said::Default
        };
        is_key.then_some(Line { section, key, text, said })
    })
}
