//! The settings as a text for an editor: one `name = 'value'` per line, as in `postgresql.conf`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::run::Failure;

const HEAD: &str = "\
# The settings of the whole cluster: NAME = 'VALUE', one a line. What you remove is not set any more.
# Save and leave: it is checked by the primary's PostgreSQL, then written. To give up, change nothing.

";

/// A text that somebody edits.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) path: PathBuf,
}

impl Draft {
    /// A new file that only its owner can read: values may be secrets.
    pub(super) fn write(values: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let name = format!("dugong-settings.{}.conf", std::process::id());
        let path = std::env::temp_dir().join(name);
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text(values).as_bytes()));
        written.map_err(|error| {
            Failure::Runtime(format!("{} cannot be written: {error}", path.display()))
        })?;
        Ok(Self { path })
    }

    /// What is in it after the editor has ended.
    pub(super) fn edit(&self) -> Result<BTreeMap<String, String>, Failure> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".to_owned());
        // The variable may hold arguments, as `code --wait` does.
        let status = Command::new("sh")
            .args(["-c", &format!("{editor} \"$1\""), "sh"])
            .arg(&self.path)
            .status();
        match status {
            Ok(status) if status.success() => (),
            Ok(status) => {
                return Err(Failure::Runtime(format!(
                    "{editor} ended with {status}: nothing was changed; your text is kept in {}",
                    self.path.display()
                )));
            }
            Err(error) => {
                return Err(Failure::Runtime(format!("{editor} cannot be started: {error}")));
            }
        }
        let text = fs::read_to_string(&self.path).map_err(|error| {
            Failure::Runtime(format!("{} cannot be read: {error}", self.path.display()))
        })?;
        parse(&text).map_err(|why| {
            Failure::Usage(format!("{why}; your text is kept in {}", self.path.display()))
        })
    }

    pub(super) fn remove(self) -> Result<(), Failure> {
        fs::remove_file(&self.path).map_err(|error| {
            Failure::Runtime(format!("{} cannot be removed: {error}", self.path.display()))
        })
    }
}

fn text(values: &BTreeMap<String, String>) -> String {
    let mut text = HEAD.to_owned();
    for (name, value) in values {
        text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
    }
    text
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut values = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let refused = |why: &str| Err(format!("line {number}: {why}: {line}"));
        let Some((name, value)) = line.split_once('=') else {
            return refused("write NAME = 'VALUE'");
        };
        let Some(value) = unquoted(value.trim()) else {
            return refused("the quotes do not end where the line does");
        };
        let name = name.trim().to_ascii_lowercase();
        if values.insert(name, value).is_some() {
            return refused("it is there twice");
        }
    }
    Ok(values)
}

/// A value with or without quotes, up to a comment.
fn unquoted(value: &str) -> Option<String> {
    let Some(rest) = value.strip_prefix('\'') else {
        let bare = value.split_once('#').map_or(value, |(value, _)| value);
        return Some(bare.trim().to_owned());
    };
    let mut found = String::new();
    let mut letters = rest.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '\'' {
            found.push(letter);
        } else if letters.next_if_eq(&'\'').is_some() {
            found.push('\'');
        } else {
            let after: String = letters.collect();
            let after = after.trim();
            return (after.is_empty() || after.starts_with('#')).then_some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_reads_the_same() {
        let values = [("a.b", "it's"), ("log_line_prefix", "%m # [%p] "), ("work_mem", "")];
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(parse(&text(&values)), Ok(values));
    }

    #[test]
    fn a_person_may_write_as_in_the_server_s_own_file() {
        #[rustfmt::skip]
        let cases = [
            ("work_mem = 8MB",           Some(("work_mem", "8MB"))),
            ("  Work_Mem='8MB' # more",  Some(("work_mem", "8MB"))),
            ("work_mem=8MB # more",      Some(("work_mem", "8MB"))),
            ("work_mem 8MB",             None),
            ("work_mem = '8MB",          None),
            ("work_mem = '8MB' or so",   None),
            ("a = 1\na = 2",             None),
        ];
        for (text, expected) in cases {
            let found = parse(text).ok().and_then(|values| values.into_iter().next());
            let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(found, expected, "{text}");
        }
    }
}
