//! What the server is told in files: `dugong.conf`, `pg_hba.conf`, the password file.
//!
//! [`Live`] is the part that changes while the server runs. Everything else is fixed from start to
//! stop, so that a reload changes nothing but what it is for (R6).
//!
//! Source: PROTOCOL.md, R6 and "What PostgreSQL must be told".

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use dugong_machine::{Access, Upstream};
use dugong_topology::{InstanceId, Revision};
use serde::{Deserialize, Serialize};

use super::Settings;
use super::failover_slots::{FailoverSlots, database};
use super::floors::Floors;
use super::hba;
use super::layout::{Durability, Layout, replace_file};
use super::mandate::{AccessText, UpstreamText};
use super::names::Names;
use crate::config::TlsFiles;
use crate::credentials::{Kind, Login};

const MANAGED: &str = "# managed by Dugong: do not edit, changes are overwritten\n";
const INCLUDE: &str = "include = 'dugong.conf'";

/// Ours, but the operator's word comes after it and wins: for the cluster, and then for the instance.
#[rustfmt::skip]
const DEFAULTS: &[(&str, &str)] = &[
    ("wal_level",                      "replica"),
    ("max_connections",                "200"),
    ("superuser_reserved_connections", "5"),
    ("max_wal_senders",                "16"),
    ("max_replication_slots",          "16"),
    ("max_slot_wal_keep_size",         "1GB"),
    ("wal_keep_size",                  "256MB"),
    ("log_line_prefix",                "%m [%p] "),
];

/// Ours, and after the operator's word: the protocol rests on them. And why.
#[rustfmt::skip]
const FIXED: &[(&str, &str, &str)] = &[
    ("unix_socket_permissions",        "0700",          "whoever reaches the socket is trusted"),
    ("synchronous_commit",             "on",            "it decides which commits survive a failover"),
    ("hot_standby",                    "on",            "standbys serve reads"),
    ("hot_standby_feedback",           "on",            "reads on standbys are not to be cancelled"),
    ("wal_log_hints",                  "on",            "a former primary is rewound by it"),
    ("wal_receiver_status_interval",   "1s",            "a sync that hangs is found by it"),
    ("wal_sender_timeout",             "5s",            "a standby that hangs is found by it"),
    ("wal_receiver_timeout",           "5s",            "an upstream that hangs is found by it"),
    ("recovery_target_timeline",       "latest",        "standbys follow the primary's newest timeline"),
    ("restart_after_crash",            "off",           "the controller decides"),
    ("logging_collector",              "off",           "the controller reads what the server says"),
    ("log_destination",                "stderr",        "the controller reads what the server says"),
    ("password_encryption",            "scram-sha-256", "the proxy and the controllers speak nothing weaker"),
];

/// Written where the server is told what changes while it runs, and for nobody else to say.
#[rustfmt::skip]
const OURS: &[(&str, &str)] = &[
    ("cluster_name",                "it is the instance's name"),
    ("wal_retrieve_retry_interval", "a takeover is timed by it"),
    ("promote_trigger_file",        "only the controllers promote"),
    ("sync_replication_slots",      "standbys of the primary copy its failover slots, where they can"),
    ("synchronized_standby_slots",  "consumers of failover slots wait for the sync"),
    ("recovery_min_apply_delay",    "a standby that lags on purpose cannot take over"),
];

/// What is the operator's to say, and what a start as a standby needs beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Common {
    /// The edition of the settings of the cluster.
    pub revision: Revision,
    /// They themselves, name to value.
    pub cluster: Arc<BTreeMap<String, String>>,
    /// Only while a standby starts.
    pub floors: Floors,
}

/// Why a setting, named in lower case, is for Dugong to say; none where it is not.
pub(super) fn owned(name: &str) -> Option<&'static str> {
    let fixed = || FIXED.iter().find(|(fixed, ..)| *fixed == name).map(|(.., reason)| *reason);
    let ours = || OURS.iter().find(|(ours, _)| *ours == name).map(|(_, reason)| *reason);
    crate::config::owned_setting(name).or_else(fixed).or_else(ours)
}

/// Dugong's own default of a setting, named in lower case; none where it has none.
pub(super) fn default(name: &str) -> Option<&'static str> {
    DEFAULTS.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// What changes while the server runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Live {
    pub names: Names,
    #[serde(with = "AccessText")]
    pub access: Access,
    pub clients: Clients,
    pub source: Source,
    #[serde(default)]
    pub failover_slots: FailoverSlots,
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
pub(super) fn write_live(
    settings: &Settings,
    layout: &Layout,
    common: &Common,
    live: &Live,
) -> io::Result<()> {
    // Written anew before each start, so that it need not survive a power failure.
    let path = layout.data.join("dugong.conf");
    replace_file(&path, &render(settings, layout, common, live), Durability::Atomic)
}

/// Writes everything that the server reads when it starts.
pub(super) fn write_all(
    settings: &Settings,
    layout: &Layout,
    common: &Common,
    live: &Live,
) -> io::Result<()> {
    write_live(settings, layout, common, live)?;
    let main = layout.data.join("postgresql.conf");
    let mut text = fs::read_to_string(&main)?;
    if !text.lines().any(|line| line.trim() == INCLUDE) {
        let _ = write!(text, "\n{INCLUDE}\n"); // Writing to a String cannot fail.
        replace_file(&main, &text, Durability::Durable)?;
    }
    write_hba(settings, layout, live.clients, Durability::Durable)?;
    write_passfile(settings, layout)
}

/// Writes who may log in, and who counts as whom.
pub(super) fn write_hba(
    settings: &Settings,
    layout: &Layout,
    clients: Clients,
    durability: Durability,
) -> io::Result<()> {
    if let Some(map) = hba::identities(settings) {
        let text = format!("{MANAGED}{map}");
        replace_file(&layout.data.join("pg_ident.conf"), &text, durability)?;
    }
    let text = format!("{MANAGED}{}", hba::render(settings, clients));
    replace_file(&layout.data.join("pg_hba.conf"), &text, durability)
}

/// Writes the passwords of replication where libpq reads them: it looks for that of the role that it
/// connects as.
pub(super) fn write_passfile(settings: &Settings, layout: &Layout) -> io::Result<()> {
    let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    let line = |Login { name, password }: Login| {
        format!("*:*:*:{}:{}\n", escape(&name), escape(password.expose()))
    };
    let lines: String =
        settings.credentials.let_in(Kind::Replication).into_iter().map(line).collect();
    replace_file(&layout.passfile(), &lines, Durability::Atomic)
}

/// A setting of our own, which means nothing to the server: whoever sees it sees whether the file was
/// read since the cluster's settings changed.
pub(super) const REVISION: &str = "dugong.settings_revision";

/// `dugong.conf`.
pub(super) fn render(settings: &Settings, layout: &Layout, common: &Common, live: &Live) -> String {
    let mut text = MANAGED.to_owned();
    let mut set = |name: &str, value: &str| {
        let _ = writeln!(text, "{name} = {}", quoted(value)); // Writing to a String cannot fail.
    };
    let said = said(&settings.extra, &common.cluster);
    for (name, value) in &said {
        set(name, value);
    }
    for (name, value) in common.floors.above(&said) {
        set(name, &value.to_string());
    }
    for (name, value, _) in FIXED {
        set(name, value);
    }
    set("listen_addresses", &settings.listen.host);
    set("port", &settings.listen.port.to_string());
    set("unix_socket_directories", &layout.run.to_string_lossy());
    set("ssl", if settings.tls.is_some() { "on" } else { "off" });
    if let Some(files) = &settings.tls {
        set("ssl_cert_file", &files.cert.to_string_lossy());
        set("ssl_key_file", &files.key.to_string_lossy());
        if hba::by_certificate(settings) {
            set("ssl_ca_file", &files.ca.to_string_lossy());
        }
    }
    set("cluster_name", settings.instance.as_str());
    set(REVISION, &common.revision.0.to_string());
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
    for (name, value) in live.failover_slots.settings(settings.version.major) {
        set(name, &value);
    }
    text
}

/// What is said of each setting that is not for Dugong alone to say; the last word wins, and the
/// instance has it. PostgreSQL takes names in any case, so they are in lower case here.
fn said(
    instance: &BTreeMap<String, String>,
    cluster: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let defaults = DEFAULTS.iter().map(|(name, value)| (*name, *value));
    let words = |words: &BTreeMap<String, String>| {
        words.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
    };
    let (cluster, instance): (Vec<_>, Vec<_>) = (words(cluster), words(instance));
    let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
    defaults.chain(cluster).chain(instance).collect()
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
            let database = database(settings.version.major);
            format!("{base} application_name={}{database}", settings.instance)
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
        Some(TlsFiles { cert, key, ca, .. }) => format!(
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

/// A value as a file of settings has it.
pub(super) fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

impl Live {
    /// A standby's: nobody can acknowledge for it, should it ever leave recovery by accident.
    pub(super) fn standby(source: Source) -> Self {
        let clients = Clients::Admitted;
        let failover_slots = FailoverSlots::default();
        Self { names: Names::nobody(), access: Access::ReadOnly, clients, source, failover_slots }
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
    fn the_instance_has_the_last_word_before_dugong() {
        let words = |words: &[(&str, &str)]| {
            words.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let said = said(
            &words(&[("Work_Mem", "9MB")]),
            &words(&[("work_mem", "8MB"), ("max_connections", "300")]),
        );
        assert_eq!(said["work_mem"], "9MB", "in any case");
        assert_eq!(said["max_connections"], "300", "before the default");
        assert_eq!(said["max_wal_senders"], "16");
    }

    #[test]
    fn what_dugong_says_has_a_reason() {
        #[rustfmt::skip]
        let cases = [
            ("synchronous_standby_names", Some("it decides which commits survive a failover")),
            ("hot_standby_feedback",      Some("reads on standbys are not to be cancelled")),
            ("cluster_name",              Some("it is the instance's name")),
            ("max_connections",           None),
            ("work_mem",                  None),
        ];
        for (name, reason) in cases {
            assert_eq!(owned(name), reason, "{name}");
        }
    }

    #[test]
    fn a_value_cannot_end_its_own_quotes() {
        assert_eq!(quoted("it's"), "'it''s'");
        assert_eq!(quoted(r"a\'b"), r"'a\\''b'");
    }
}
