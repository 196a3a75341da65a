//! Who may log in, and from where: `pg_hba.conf`.
//!
//! **Invariant:** only the local socket is trusted. Whoever comes over a network has a password, or,
//! where the configuration says so and for replication, a certificate.
//!
//! Source: PROTOCOL.md, R5; PostgreSQL manual, "The pg_hba.conf File".

use std::fmt::Write as _;

use super::Settings;
use super::configuration::Clients;
use super::remote::REWIND_DATABASE;
use crate::config::{ReplicationAuth, TlsFiles};
use crate::credentials::{Credentials, Kind};

/// This machine: what it calls itself, and by each address that it has.
const HERE: [&str; 3] = ["127.0.0.1/32", "::1/128", "samehost"];

/// The name of the map from certificates to roles.
const MAP: &str = "dugong";

/// The whole file, from its second line on. The first line that fits a connection counts.
pub(super) fn render(settings: &Settings, clients: Clients) -> String {
    let roles = |kind| roles(&settings.credentials, kind);
    let (replication, lookup) = (roles(Kind::Replication), roles(Kind::Lookup));
    let superuser = roles(Kind::Superuser);
    let verdict = match clients {
        Clients::Admitted => "scram-sha-256",
        Clients::Refused => "reject",
    };
    // The socket lies in a directory that only its owner can enter.
    let mut text = "local all all trust\nlocal replication all trust\n".to_owned();
    let mut line = |kind: &str, who: &str, from: &str, verdict: &str| {
        let _ = writeln!(text, "{kind} {who} {from} {verdict}"); // Writing to a String cannot fail.
    };
    if by_certificate(settings) {
        let networks = settings.networks.iter().map(ToString::to_string);
        for from in HERE.map(str::to_owned).into_iter().chain(networks) {
            for database in ["replication", REWIND_DATABASE] {
                let who = format!("{database} {replication}");
                line("hostssl", &who, &from, &format!("cert map={MAP}"));
            }
        }
    }
    for from in HERE {
        line("host", &format!("replication {replication}"), from, "scram-sha-256");
        line("host", &format!("{REWIND_DATABASE} {replication}"), from, "scram-sha-256");
        line("host", &format!("all {superuser}"), from, "scram-sha-256");
        line("host", &format!("all {lookup}"), from, "scram-sha-256");
        line("host", "all all", from, verdict);
    }
    let kind = if settings.tls.is_some() { "hostssl" } else { "host" };
    for network in settings.networks.iter().map(ToString::to_string) {
        line(kind, &format!("replication {replication}"), &network, "scram-sha-256");
        line(kind, &format!("{REWIND_DATABASE} {replication}"), &network, "scram-sha-256");
        line(kind, &format!("all {lookup}"), &network, "scram-sha-256");
        line(kind, "all all", &network, verdict);
    }
    for network in settings.plain_networks.iter().map(ToString::to_string) {
        line("host", &format!("all {lookup}"), &network, "scram-sha-256");
        line("host", "all all", &network, verdict);
    }
    text
}

/// `pg_ident.conf`, where standbys are known by certificates: whoever has one of the CA may be a role of
/// replication. None where they are not: whatever is in that file is not ours.
pub(super) fn identities(settings: &Settings) -> Option<String> {
    let line = |name: &String| format!("{MAP} /^.*$ {}\n", quoted(name));
    let names = names(&settings.credentials, Kind::Replication);
    by_certificate(settings).then(|| names.iter().map(line).collect())
}

/// Whether standbys that come by TLS are known by their certificates.
pub(super) fn by_certificate(settings: &Settings) -> bool {
    let certificate = |files: &TlsFiles| files.replication_auth == ReplicationAuth::Certificate;
    settings.tls.as_ref().is_some_and(certificate)
}

/// Every role that is let in for that, as one word of the file: two while passwords are exchanged.
fn roles(credentials: &Credentials, kind: Kind) -> String {
    names(credentials, kind).iter().map(|name| quoted(name)).collect::<Vec<_>>().join(",")
}

fn names(credentials: &Credentials, kind: Kind) -> Vec<String> {
    let mut names: Vec<_> = credentials.let_in(kind).into_iter().map(|login| login.name).collect();
    names.dedup();
    names
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::time::Duration;

    use dugong_topology::Address;

    use super::*;
    use crate::credentials::{ExchangeId, Login, Password};

    fn settings(networks: &[&str]) -> Settings {
        Settings {
            instance: "pg-1".parse().unwrap(),
            cluster: "main".to_owned(),
            dir: PathBuf::from("/nowhere"),
            bin: PathBuf::from("/nowhere"),
            version: crate::postgres::Version { major: 15, minor: 0 },
            warden: PathBuf::from("/nowhere"),
            listen: Address::loopback(5432),
            networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
            plain_networks: Vec::new(),
            tls: None,
            extra: BTreeMap::new(),
            credentials: Credentials::generate().unwrap(),
            heartbeat_interval: Duration::from_secs(1),
            storage_deadline: None,
            repair: crate::config::RepairConfig::default(),
            origin: crate::config::Origin::default(),
        }
    }

    /// What the first fitting line says, as PostgreSQL reads it.
    fn verdict<'a>(text: &'a str, kind: &str, database: &str, user: &str, from: &str) -> &'a str {
        let fits = |line: &&str| {
            let words: Vec<_> = line.split(' ').collect();
            let quoted = format!("\"{user}\"");
            let user_fits = words[2] == "all" || words[2].split(',').any(|name| name == quoted);
            // "all" is no replication.
            let database_fits =
                words[1] == database || (words[1] == "all" && database != "replication");
            words[0] == kind && database_fits && user_fits && words[3] == from
        };
        text.lines().find(fits).map_or("no line", |line| line.rsplit(' ').next().unwrap())
    }

    #[test]
    fn a_closed_primary_lets_in_its_standbys_and_lookups_but_no_client() {
        use Clients::{Admitted, Refused};
        const SCRAM: &str = "scram-sha-256";
        let (here, net) = ("127.0.0.1/32", "10.0.0.0/24");
        #[rustfmt::skip]
        let cases = [
            // whoever comes                         from           admitted   refused
            ("replication", "dugong_replication",    here,          SCRAM,     SCRAM),
            ("replication", "dugong_replication",    net,           SCRAM,     SCRAM),
            ("replication", "app",                   net,           "no line", "no line"),
            ("postgres",    "dugong_replication",    here,          SCRAM,     SCRAM),
            ("postgres",    "dugong_replication",    net,           SCRAM,     SCRAM),
            ("app",         "dugong_replication",    net,           SCRAM,     "reject"),
            ("app",         "dugong_lookup",         net,           SCRAM,     SCRAM),
            ("app",         "app",                   here,          SCRAM,     "reject"),
            ("app",         "app",                   "samehost",    SCRAM,     "reject"),
            ("app",         "app",                   net,           SCRAM,     "reject"),
            ("app",         "postgres",              here,          SCRAM,     SCRAM),
            ("app",         "postgres",              net,           SCRAM,     "reject"),
            ("app",         "app",                   "10.0.1.0/24", "no line", "no line"),
        ];
        let settings = settings(&[net]);
        let (open, closed) = (render(&settings, Admitted), render(&settings, Refused));
        for (database, user, from, admitted, refused) in cases {
            let of = |text| verdict(text, "host", database, user, from);
            assert_eq!((of(&open), of(&closed)), (admitted, refused), "{user} from {from}");
        }
    }

    #[test]
    fn with_tls_nobody_comes_plain_from_a_network_but_clients_from_where_they_may() {
        let path = || PathBuf::from("/nowhere");
        let settings = Settings {
            tls: Some(TlsFiles {
                cert: path(),
                key: path(),
                ca: path(),
                replication_auth: ReplicationAuth::Password,
            }),
            plain_networks: vec!["10.0.0.9/32".parse().unwrap()],
            ..settings(&["10.0.0.0/24"])
        };
        let text = render(&settings, Clients::Admitted);
        let (role, scram) = ("dugong_replication", "scram-sha-256");
        #[rustfmt::skip]
        let cases = [
            ("hostssl", "replication", role,  "10.0.0.0/24",  scram),
            ("host",    "replication", role,  "10.0.0.0/24",  "no line"),
            ("hostssl", "postgres",    role,  "10.0.0.0/24",  scram),
            ("host",    "postgres",    role,  "10.0.0.0/24",  "no line"),
            ("hostssl", "app",         "app", "10.0.0.0/24",  scram),
            ("host",    "app",         "app", "10.0.0.0/24",  "no line"),
            ("host",    "app",         "app", "10.0.0.9/32",  scram),
            ("host",    "replication", role,  "10.0.0.9/32",  "no line"),
            ("host",    "app",         "app", "127.0.0.1/32", scram),
        ];
        for (kind, database, user, from, expected) in cases {
            assert_eq!(verdict(&text, kind, database, user, from), expected, "{kind} {database}");
        }
        assert_eq!(identities(&settings), None, "that file is somebody else's");
        let closed = render(&settings, Clients::Refused);
        assert_eq!(verdict(&closed, "host", "app", "app", "10.0.0.9/32"), "reject");
        assert_eq!(verdict(&closed, "hostssl", "app", "app", "10.0.0.0/24"), "reject");
    }

    #[test]
    fn by_certificates_no_password_lets_a_standby_in_by_tls() {
        let path = || PathBuf::from("/nowhere");
        let replication_auth = ReplicationAuth::Certificate;
        let settings = Settings {
            tls: Some(TlsFiles { cert: path(), key: path(), ca: path(), replication_auth }),
            ..settings(&["10.0.0.0/24"])
        };
        let text = render(&settings, Clients::Refused);
        let role = "dugong_replication";
        #[rustfmt::skip]
        let cases = [
            ("hostssl", "replication", role,            "10.0.0.0/24",  "map=dugong"),
            ("hostssl", "postgres",    role,            "10.0.0.0/24",  "map=dugong"),
            ("hostssl", "replication", role,            "127.0.0.1/32", "map=dugong"),
            ("host",    "replication", role,            "10.0.0.0/24",  "no line"),
            ("host",    "postgres",    role,            "127.0.0.1/32", "scram-sha-256"),
            ("hostssl", "postgres",    "dugong_lookup", "10.0.0.0/24",  "scram-sha-256"),
        ];
        for (kind, database, user, from, expected) in cases {
            assert_eq!(
                verdict(&text, kind, database, user, from),
                expected,
                "{kind} {user} {from}"
            );
        }
        let map = identities(&settings).unwrap();
        assert_eq!(map, "dugong /^.*$ \"dugong_replication\"\n");
    }

    #[test]
    fn both_roles_are_let_in_while_passwords_are_exchanged() {
        let mut settings = settings(&["10.0.0.0/24"]);
        let name = "dugong_replication_b".to_owned();
        let next = Login { name, password: Password::fresh().unwrap() };
        let id = ExchangeId::fresh().unwrap();
        let next = [(Kind::Replication, next)].into();
        let before = settings.credentials.clone();
        settings.credentials = before.learn(&id, next, None).unwrap();
        let (known, then) = (render(&settings, Clients::Refused), settings.credentials);
        settings.credentials = then.take_into_use(&id).unwrap();
        let (used, then) = (render(&settings, Clients::Refused), settings.credentials);
        settings.credentials = then.finish(&id).unwrap();
        let last = render(&settings, Clients::Refused);
        #[rustfmt::skip]
        let cases = [
            ("dugong_replication",   &known, "scram-sha-256"),
            ("dugong_replication_b", &known, "scram-sha-256"),
            ("dugong_replication",   &used,  "scram-sha-256"),
            ("dugong_replication_b", &used,  "scram-sha-256"),
            ("dugong_replication",   &last,  "no line"),
            ("dugong_replication_b", &last,  "scram-sha-256"),
        ];
        for (role, text, expected) in cases {
            let found = verdict(text, "host", "replication", role, "10.0.0.0/24");
            assert_eq!(found, expected, "{role} in {text}");
        }
    }

    #[test]
    fn without_networks_only_this_machine_is_let_in() {
        let text = render(&settings(&[]), Clients::Admitted);
        for line in text.lines().filter(|line| line.starts_with("host")) {
            let from = line.split(' ').nth(3).unwrap();
            assert!(HERE.contains(&from), "{line}");
        }
    }
}
