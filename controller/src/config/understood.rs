//! What a configuration comes to: each key, its value, and where that comes from.

use super::env::{self, Override};
use super::keys::{Said, example};

/// One line for each key that is set, or has a default, in the order of the manual.
pub(super) fn understood(effective: &toml::Table, overrides: &[Override]) -> String {
    let mut rows = Vec::new();
    let kind = effective.get("store").and_then(|store| store.get("kind"));
    let is_etcd = kind.and_then(toml::Value::as_str) == Some("etcd");
    for line in example() {
        let table = match line.section {
            "" => Some(effective),
            section => effective.get(section).and_then(toml::Value::as_table),
        };
        let name = match line.section {
            "" => line.key.to_owned(),
            section => format!("{section}.{}", line.key),
        };
        let overridden = overrides.iter().any(|o| (o.section, o.key) == (line.section, line.key));
        match (table.and_then(|table| table.get(line.key)), line.said) {
            (Some(value), _) if overridden => {
                rows.push((name, value.to_string(), env::variable(line.section, line.key)));
            }
            (Some(value), _) => rows.push((name, value.to_string(), String::new())),
            (None, Said::DefaultOfEtcd) if !is_etcd => (),
            (None, Said::Default | Said::DefaultOfEtcd) => {
                rows.push((name, line.value().to_owned(), "default".into()))
            }
            (None, Said::Required | Said::None) => (),
        }
    }
    let wide = |of: fn(&(String, String, String)) -> &String| {
        rows.iter().map(|row| of(row).len()).max().unwrap_or(0)
    };
    let (names, values) = (wide(|row| &row.0), wide(|row| &row.1).min(40));
    let lines = rows.iter().map(|(name, value, from)| match from.as_str() {
        "" => format!("{name:names$} = {value}"),
        from => format!("{name:names$} = {value:values$}  # {from}"),
    });
    lines.collect::<Vec<_>>().join("\n")
}
