//! What the server is told in files: `dugong.conf`, `pg_hba.conf`, the password file.
//!
//! [`Live`] is the part that changes while the server runs. Everything else is fixed from start to
//! stop, so that a reload changes nothing but what it is for (R6).
//!
//! Source: PROTOCOL.md, R6 and "What PostgreSQL must be told".

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use dugong_machine::{Access, Upstream};
use dugong_topology::InstanceId;
use serde::{Deserialize, Serialize};

use super::Settings;
use super::hba;
use super::layout::{Durability, Layout, replace_file};
use super::mandate::{AccessText, UpstreamText};
use super::names::Names;
use crate::config::TlsFiles;

const MANAGED: &str = "# managed by Dugong: do not edit, changes are overwritten\n";
const INCLUDE: &str = "include = 'dugong.conf'";

/// Ours, but the operator's word comes after it and wins.
#[rustfmt::skip]
const DEFAULTS: &[(&str, &str)] = &[
    ("max_connections",                "200"),
    ("superuser_reserved_connections", "5"),
    ("max_wal_senders",                "16"),
    ("max_replication_slots",          "16"),
    ("max_slot_wal_keep_size",         "1GB"),
    ("wal_keep_size",                  "256MB"),
    ("log_line_prefix",                "%m [%p] "),
];

/// Ours, and after the operator's word: the protocol rests on them.
#[rustfmt::skip]
const FIXED: &[(&str, &str)] = &[
    ("unix_socket_permissions",        "0700"),
    ("wal_level",                      "replica"),
    ("synchronous_commit",             "on"),
    ("hot_standby",                    "on"),
    ("hot_standby_feedback",           "on"),
    ("wal_log_hints",                  "on"),
    ("wal_receiver_status_interval",   "1s"),
    ("wal_sender_timeout",             "5s"),
    ("wal_receiver_timeout",           "5s"),
    ("recovery_target_timeline",       "latest"),
    ("restart_after_crash",            "off"), // The controller decides.
    ("logging_collector",              "off"),
    ("log_destination",                "stderr"),
    ("password_encryption",            "scram-sha-256"),
];

/// What changes while the server runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Live {
    pub names: Names,
    #[serde(with = "AccessText")]
    pub access: Access,
    pub clients: Clients,
    pub source: Source,
}

/// Whether clients may log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Clients {
    Admitted,
    /// A primary that was started again shows commits that its sync may not have. Nobody may see
    /// those before it is open (R5): no proxy of yesterday, nor anybody who comes without one.
    Refused,
}

/// Where a server in recovery gets its WAL from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    /// From nobody.
    Nobody,
    /// From nobody ever again: what is here is replayed at once, at the expense of readers (R4).
    Sealed,
    /// The same where that took too long: the startup process pauses longer between two attempts
    /// to get WAL than it takes to read the beginning of a very long record again. Only in such a
    /// pause can it be seen that all is replayed.
    SealedSlowly,
    From(#[serde(with = "UpstreamText")] Upstream),
}

/// Writes `dugong.conf`.
pub(super) fn write_live(settings: &Settings, layout: &Layout, live: &Live) -> io::Result<()> {
    // Written anew before each start, so that it need not survive a power failure.
    let path = layout.data.join("dugong.conf");
    replace_file(&path, &render(settings, layout, live), Durability::Atomic)
}

/// Writes everything that the server reads when it starts.
pub(super) fn write_all(settings: &Settings, layout: &Layout, live: &Live) -> io::Result<()> {
    write_live(settings, layout, live)?;
    let main = layout.data.join("postgresql.conf");
    let mut text = fs::read_to_string(&main)?;
    if !text.lines().any(|line| line.trim() == INCLUDE) {
        let _ = write!(text, "\n{INCLUDE}\n"); // Writing to a String cannot fail.
        replace_file(&main, &text, Durability::Durable)?;
    }
    write_hba(settings, layout, live.clients, Durability::Durable)?;
    write_passfile(settings, layout)
}

/// Writes who may log in.
pub(super) fn write_hba(
    settings: &Settings,
    layout: &Layout,
    clients: Clients,
    durability: Durability,
) -> io::Result<()> {
    let text = format!("{MANAGED}{}", hba::render(settings, clients));
    replace_file(&layout.data.join("pg_hba.conf"), &text, durability)
}

/// Writes the password of replication where libpq reads it.
pub(super) fn write_passfile(settings: &Settings, layout: &Layout) -> io::Result<()> {
    let replication = &settings.credentials.replication;
    let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    let line =
        format!("*:*:*:{}:{}\n", escape(&replication.name), escape(replication.password.expose()));
    replace_file(&layout.passfile(), &line, Durability::Atomic)
}

fn render(settings: &Settings, layout: &Layout, live: &Live) -> String {
    let mut text = MANAGED.to_owned();
    let mut set = |name: &str, value: &str| {
        let _ = writeln!(text, "{name} = {}", quoted(value)); // Writing to a String cannot fail.
    };
    for (name, value) in DEFAULTS {
        set(name, value);
    }
    for (name, value) in &settings.extra {
        set(name, value);
    }
    for (name, value) in FIXED {
        set(name, value);
    }
    set("listen_addresses", &settings.listen.host);
    set("port", &settings.listen.port.to_string());
    set("unix_socket_directories", &layout.run.to_string_lossy());
    set("ssl", if settings.tls.is_some() { "on" } else { "off" });
    if let Some(files) = &settings.tls {
        set("ssl_cert_file", &files.cert.to_string_lossy());
        set("ssl_key_file", &files.key.to_string_lossy());
    }
    set("cluster_name", settings.instance.as_str());
    match &live.source {
        Source::Nobody | Source::From(_) => set("wal_retrieve_retry_interval", "100ms"),
        Source::Sealed | Source::SealedSlowly => {
            let slowly = live.source == Source::SealedSlowly;
            set("wal_retrieve_retry_interval", if slowly { "1s" } else { "10ms" });
            set("max_standby_streaming_delay", "0");
            set("max_standby_archive_delay", "0");
        }
    }
    set("primary_conninfo", &conninfo(settings, layout, &live.source));
    match &live.source {
        Source::From(_) => set("primary_slot_name", &settings.instance.slot_name()),
        Source::Nobody | Source::Sealed | Source::SealedSlowly => set("primary_slot_name", ""),
    }
    set("synchronous_standby_names", &live.names.rendered());
    set("default_transaction_read_only", read_only(live.access));
    text
}

/// The setting's value, as the file and the server write it.
pub(super) fn read_only(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "on",
        Access::ReadWrite => "off",
    }
}

/// `primary_conninfo` for a source; empty where WAL comes from nobody.
pub(super) fn conninfo(settings: &Settings, layout: &Layout, source: &Source) -> String {
    match source {
        Source::Nobody | Source::Sealed | Source::SealedSlowly => String::new(),
        Source::From(upstream) => {
            let base = connection(settings, layout, upstream);
            format!("{base} application_name={}", settings.instance)
        }
    }
}

/// A connection as the replication role, without a name of its own: the name of an instance would
/// count as that instance's word that it has flushed.
pub(super) fn connection(settings: &Settings, layout: &Layout, to: &Upstream) -> String {
    let value = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let file = |path: &Path| value(&path.to_string_lossy());
    // Where no certificate is named, libpq looks for one in a home that it may not enter.
    let tls = match &settings.tls {
        Some(TlsFiles { cert, key, ca }) => format!(
            "sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
            file(ca),
            file(cert),
            file(key)
        ),
        // It still uses TLS where the other end has it, and verifies nothing: so TLS can be turned
        // on one instance after the other, from the primary on.
        None => format!("sslmode=prefer sslcert={}", file(&layout.run.join("no.crt"))),
    };
    format!(
        "host={} port={} user={} passfile={} connect_timeout=2 keepalives_idle=2 \
         keepalives_interval=1 keepalives_count=3 tcp_user_timeout=5000 {tls}",
        value(&to.address.host),
        to.address.port,
        value(&settings.credentials.replication.name),
        value(&layout.passfile().to_string_lossy()),
    )
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

impl Live {
    /// A standby's: nobody can acknowledge for it, should it ever leave recovery by accident.
    pub(super) fn standby(source: Source) -> Self {
        let clients = Clients::Admitted;
        Self { names: Names::nobody(), access: Access::ReadOnly, clients, source }
    }

    /// The upstream's id, if there is one.
    pub(super) fn upstream(&self) -> Option<&InstanceId> {
        match &self.source {
            Source::From(upstream) => Some(&upstream.id),
            Source::Nobody | Source::Sealed | Source::SealedSlowly => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_end_its_own_quotes() {
        assert_eq!(quoted("it's"), "'it''s'");
        assert_eq!(quoted(r"a\'b"), r"'a\\''b'");
    }
}
