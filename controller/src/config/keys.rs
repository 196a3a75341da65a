//! The known keys of each section, and what a person probably meant by another one.

use super::error::{ConfigProblem, Nearest};

/// Sections with their keys, the top of the file first, in the order of the manual.
#[rustfmt::skip]
pub(super) const SECTIONS: [(&str, &[&str]); 5] = [
    ("", &["cluster", "instance", "dir", "credentials", "bootstrap_size", "one_node",
           "postgres", "http", "store", "timings"]),
    ("postgres", &["bin", "listen", "networks", "plain_networks", "tls_cert", "tls_key",
                   "tls_ca", "settings"]),
    ("http", &["listen"]),
    ("store", &["kind", "path", "endpoints", "prefix", "user", "password_file", "ca", "cert", "key",
                "request_timeout", "session_ttl"]),
    ("timings", &["link_ttl", "heartbeat_interval", "sync_timeout", "restart_after",
                  "stuck_after", "forget_after"]),
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

fn nearest(key: &str, known: &'static [&'static str]) -> Nearest {
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
