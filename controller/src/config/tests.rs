//! What a configuration file may say, and what it is told when it may not.

use std::time::Duration;

use super::*;

impl Config {
    fn parse(text: &str) -> Result<Self, ConfigProblem> {
        Self::parse_with(text, &[]).map(|(config, _)| config)
    }
}

/// Every key at once.
const WHOLE: &str = r#"
cluster = "orders"
instance = "pg-1"
dir = "/srv/dugong/pg-1"
credentials = "/srv/dugong/credentials.json"
bootstrap_size = 3
one_node = false
[bootstrap]
method = "command"
command = "cp -a /backup/. $DUGONG_DATA"
[postgres]
bin = "/usr/lib/postgresql/15/bin"
listen = "127.0.0.1:20001"
memory = "16GB"
networks = ["10.0.0.0/24", "fd00:1::/64"]
plain_networks = ["10.0.0.9"]
replication_auth = "password"
tls_cert = "/etc/dugong/server.crt"
tls_key = "/etc/dugong/server.key"
tls_ca = "/etc/dugong/authority.crt"
settings = { shared_buffers = "64MB", "auto_explain.log_min_duration" = "1s" }

[http]
listen = "127.0.0.1:20011"
tls_cert = "/srv/dugong/pg-1.crt"
tls_key = "/srv/dugong/pg-1.key"
client_ca = "/srv/dugong/ca.crt"
token_file = "/srv/dugong/token"
read_token_file = "/srv/dugong/read-token"

[store]
kind = "sqlite"
path = "/srv/dugong/store.db"
session_ttl = "4s"

[dns]
listen = "127.0.0.1:53"
zone = "DB.internal."
ttl = "2s"

[timings]
link_ttl = "3s"
heartbeat_interval = "250ms"
sync_timeout = "1s"
restart_after = "6s"
stuck_after = "1min"
forget_after = "1day"
storage_deadline = "20s"

[repair]
rewind_timeout = "2h"
copy_max_rate = "50MB"
keep_diverged = 3
damaged = "report"
"#;

/// `[store]` as it is for etcd.
const ETCD: &str = r#"
kind = "etcd"
endpoints = ["https://10.0.0.1:2379", "https://etcd-2:2379"]
prefix = "/databases"
user = "dugong"
password_file = "/etc/dugong/etcd-password"
ca = "/etc/dugong/ca.crt"
cert = "/etc/dugong/pg-1.crt"
key = "/etc/dugong/pg-1.key"
request_timeout = "500ms"
"#;

/// The whole file with etcd as its store.
fn with_etcd() -> String {
    let sqlite = "kind = \"sqlite\"\npath = \"/srv/dugong/store.db\"";
    assert!(WHOLE.contains(sqlite));
    WHOLE.replace(sqlite, ETCD.trim())
}

const SMALLEST: &str = r#"
instance = "pg-1"
dir = "/srv/dugong/pg-1"
credentials = "/srv/dugong/credentials.json"
[postgres]
listen = "127.0.0.1:20001"
[http]
listen = "127.0.0.1:20011"
[store]
path = "/srv/dugong/store.db"
"#;

#[test]
fn a_whole_file_is_read_and_the_table_of_keys_is_complete() {
    let config = Config::parse(WHOLE).unwrap();
    assert_eq!(config.cluster, "orders");
    assert_eq!(config.bootstrap, Bootstrap::Of(3));
    let command = "cp -a /backup/. $DUGONG_DATA".to_owned();
    assert_eq!(config.origin, Origin::Command(command));
    let networks: Vec<_> = config.postgres.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/24", "fd00:1::/64"]);
    assert_eq!(config.postgres.memory, Some(16 << 30));
    let files = config.postgres.tls.unwrap();
    assert_eq!(files.key, Path::new("/etc/dugong/server.key"));
    assert_eq!(config.postgres.settings["shared_buffers"], "64MB");
    assert_eq!(config.store.session_ttl, Duration::from_secs(4));
    assert_eq!(config.timings.forget_after, Duration::from_secs(86_400));
    assert_eq!(config.dns.unwrap().zone, "db.internal");
    let two_hours = Some(Duration::from_secs(7200));
    assert_eq!(config.repair.rewind_timeout, two_hours);
    assert_eq!(config.repair.copy_max_rate.unwrap().kilobytes(), 50 << 10);
    assert_eq!(config.repair.keep_diverged, 3);
    let file: toml::Table = toml::from_str(WHOLE).unwrap();
    let etcd: toml::Table = toml::from_str(ETCD).unwrap();
    for (section, keys) in keys::SECTIONS {
        let table = if section.is_empty() { &file } else { file[section].as_table().unwrap() };
        for key in keys {
            let other = section == "store" && etcd.contains_key(*key);
            let other_method =
                section == "bootstrap" && ["data", "primary", "password_file"].contains(key);
            let known = table.contains_key(*key) || other || other_method;
            assert!(known, "{key} in [{section}]");
        }
    }
}

#[test]
fn the_smallest_file_has_the_documented_defaults() {
    let config = Config::parse(SMALLEST).unwrap();
    assert_eq!(config.cluster, "main");
    assert_eq!(config.bootstrap, Bootstrap::Of(2));
    assert_eq!(config.postgres.tls, None);
    let plain = SMALLEST.replace("[http]", "plain_networks = [\"10.0.0.9\"]\n[http]");
    let refused = Config::parse(&plain).unwrap_err().to_string();
    assert!(refused.contains("without tls_cert nobody does"), "{refused}");
    let known = SMALLEST.replace("[http]", "replication_auth = \"certificate\"\n[http]");
    let refused = Config::parse(&known).unwrap_err().to_string();
    assert!(refused.contains("set tls_cert, tls_key and tls_ca"), "{refused}");
    let known =
        WHOLE.replace("replication_auth = \"password\"", "replication_auth = \"certificate\"");
    let tls = Config::parse(&known).unwrap().postgres.tls.unwrap();
    assert_eq!(tls.replication_auth, ReplicationAuth::Certificate);
    assert_eq!(config.origin, Origin::Initdb);
    let one_node = Config::parse(&format!("one_node = true{SMALLEST}")).unwrap();
    assert_eq!(one_node.bootstrap, Bootstrap::OneNode);
    assert_eq!(config.postgres.bin, None);
    assert_eq!(config.postgres.networks, []);
    assert_eq!(config.store.session_ttl, Duration::from_secs(3));
    assert_eq!(config.timings.link_ttl, Duration::from_secs(2));
    assert_eq!(config.dns, None);
    assert_eq!(config.repair, RepairConfig::default());
    let never = format!("{SMALLEST}[repair]\nrewind_timeout = \"0s\"");
    assert_eq!(Config::parse(&never).unwrap().repair.rewind_timeout, None);
    let rate = "32kB to 1GB a second";
    #[rustfmt::skip]
    let cases = [
        ("rewind_timeout = \"25h\"",  "0s to 1day"),
        ("copy_max_rate = \"31kB\"",  rate),
        ("copy_max_rate = \"1025MB\"", rate),
        ("copy_max_rate = \"fast\"",  rate),
        ("keep_diverged = 101",       "0 to 100"),
    ];
    for (key, shown) in cases {
        let refused = Config::parse(&format!("{SMALLEST}[repair]\n{key}")).unwrap_err().to_string();
        assert!(refused.contains(shown), "{refused}");
    }
    let short = "[dns]\nlisten = \"0.0.0.0:53\"\nzone = \"db\"";
    let dns = Config::parse(&format!("{SMALLEST}{short}")).unwrap().dns.unwrap();
    assert_eq!(dns.ttl, Duration::from_secs(1));
    assert_eq!(config.timings.heartbeat_interval, Duration::from_millis(500));
    let path = "/srv/dugong/store.db".into();
    assert_eq!(config.store.backend, StoreBackend::Sqlite { path });
}

#[test]
fn what_is_wrong_is_refused_with_the_reason() {
    #[rustfmt::skip]
    let cases = [
        // this text                         replaced by                       is answered with
        ("session_ttl = \"4s\"",             "sesion_ttl = \"4s\"",            "unknown key \"sesion_ttl\" in [store]; did you mean \"session_ttl\"?"),
        ("session_ttl = \"4s\"",             "link_ttl = \"4s\"",              "unknown key \"link_ttl\" in [store]; it belongs in [timings]"),
        ("cluster =",                        "path =",                         "unknown key \"path\" at the top of the file; it belongs in [store]"),
        ("link_ttl = \"3s\"",                "bootstrap_size = 3",             "in [timings]; it belongs at the top of the file"),
        ("[timings]",                        "[colours]",                      "unknown key \"colours\" at the top of the file; known there are cluster,"),
        ("\"4s\"",                           "4",                              "line 34: invalid type: integer `4`"),
        ("\"4s\"",                           "\"4\"",                          "write 250ms, 30s or 5min"),
        ("\"4s\"",                           "\"61s\"",                        "store.session_ttl = \"1m 1s\" is out of range: 1s to 1m"),
        ("\"4s\"",                           "\"900ms\"",                      "out of range"),
        ("\"sqlite\"",                       "\"redis\"",                      "unknown variant `redis`"),
        ("\"sqlite\"",                       "\"etcd\"",                       "path in [store] is for kind = \"sqlite\""),
        ("kind = \"sqlite\"",                "prefix = \"/x\"",               "prefix in [store] is for kind = \"etcd\""),
        ("path = \"/srv/dugong/store.db\"",  "",                               "[store] of kind \"sqlite\" needs the key path"),
        ("\"orders\"",                       "\"Orders\"",                     "no name of a cluster"),
        ("\"pg-1\"",                         "\"PG 1\"",                       "line 3: \"PG 1\" is no instance id"),
        ("instance = \"pg-1\"",              "",                               "missing field `instance`"),
        ("\"/srv/dugong/pg-1\"",             "\"pg-1\"",                       "dir = \"pg-1\" is relative"),
        ("\"/srv/dugong/credentials.json\"", "\"credentials.json\"",           "credentials = \"credentials.json\" is relative"),
        ("\"/srv/dugong/store.db\"",         "\"store.db\"",                   "store.path = \"store.db\" is relative"),
        ("\"/usr/lib/postgresql/15/bin\"",   "\"bin\"",                        "postgres.bin = \"bin\" is relative"),
        ("bootstrap_size = 3",               "bootstrap_size = 1",             "bootstrap_size = 1 is out of range"),
        ("bootstrap_size = 3",               "bootstrap_size = 10",            "bootstrap_size = 10 is out of range"),
        ("one_node = false",                 "one_node = true",                "contradict each other"),
        ("127.0.0.1:20011",                  "127.0.0.1:20001",                "give each a port of its own"),
        ("127.0.0.1:20011",                  "0.0.0.0:20011",                  "http.listen = \"0.0.0.0:20011\" is a wildcard"),
        ("127.0.0.1:20001",                  "[::]:20001",                     "postgres.listen = \"[::]:20001\" is a wildcard"),
        ("127.0.0.1:20011",                  "127.0.0.1",                      "line 24: "),
        ("\"10.0.0.0/24\"",                  "\"10.0.0.1/24\"",               "the network is written 10.0.0.0/24"),
        ("[\"10.0.0.0/24\", ",               "[\"intranet\", ",                "\"intranet\" is no network"),
        ("\"16GB\"",                           "\"much\"",                       "postgres.memory = \"much\" is no size of at least 64MB"),
        ("tls_ca = \"/etc/dugong/authority.crt\"",  "",                               "postgres.tls_cert, tls_key and tls_ca belong together"),
        ("\"/etc/dugong/server.key\"",       "\"pg-1.key\"",                   "postgres.tls_key = \"pg-1.key\" is relative"),
        ("shared_buffers =",                 "SSL =",                          "SSL is set by Dugong (postgres.tls_cert says it)"),
        ("shared_buffers =",                 "fsync =",                        "fsync is set by Dugong (without it a crash"),
        ("shared_buffers =",                 "Synchronous_Commit =",           "Synchronous_Commit is set by Dugong"),
        ("shared_buffers =",                 "\"a b\" =",                      "\"a b\" is no name of a setting"),
        ("\"64MB\"",                         "\"64MB\\nfsync = off\"",         "has a line break"),
        ("\"64MB\"",                         "64",                             "expected a string"),
        ("heartbeat_interval = \"250ms\"",   "heartbeat_interval = \"10ms\"",  "timings.heartbeat_interval = \"10ms\" is out of range"),
        ("sync_timeout = \"1s\"",            "sync_timeout = \"500ms\"",       "beside timings.sync_timeout = \"500ms\""),
        ("link_ttl = \"3s\"",                "link_ttl = \"500ms\"",           "beside timings.link_ttl = \"500ms\": one late heartbeat"),
        ("link_ttl = \"3s\"",                "link_ttl = \"4s\"",              "timings.link_ttl = \"4s\" is too long beside store.session_ttl = \"4s\""),
        ("restart_after = \"6s\"",           "restart_after = \"4s\"",         "beside timings.restart_after = \"4s\""),
        ("stuck_after = \"1min\"",           "stuck_after = \"1s\"",           "beside timings.stuck_after = \"1s\""),
        ("forget_after = \"1day\"",          "forget_after = \"1s\"",          "beside timings.forget_after = \"1s\""),
        ("127.0.0.1:53",                     "127.0.0.1:20011",                "http.listen and dns.listen are both 127.0.0.1:20011"),
        ("\"2s\"",                           "\"0s\"",                         "dns.ttl = \"0s\" is out of range: 1s to 1h"),
        ("\"2s\"",                           "\"2h\"",                         "out of range"),
        ("DB.internal.",                     "",                               "dns.zone = \"\" is no zone"),
        ("DB.internal.",                     "db..internal",                   "is no zone"),
        ("DB.internal.",                     "-db.internal",                   "is no zone"),
        ("DB.internal.",                     "db_1.internal",                  "is no zone"),
        ("\"pg-1\"",                         "\"replica\"",                    "instance = \"replica\" is what the zone calls a role"),
        ("127.0.0.1:20001",                  "pg-1.orders.db.INTERNAL:20001",  "postgres.listen = \"pg-1.orders.db.INTERNAL:20001\" is within the zone"),
        ("tls_cert = \"/srv/dugong/pg-1.crt\"\ntls_key = \"/srv/dugong/pg-1.key\"\nclient_ca = \"/srv/dugong/ca.crt\"", "tls_key = \"/srv/dugong/pg-1.key\"", "http.tls_key without http.tls_cert"),
        ("tls_key = \"/srv/dugong/pg-1.key\"\nclient_ca = \"/srv/dugong/ca.crt\"", "", "http.tls_cert without http.tls_key"),
        ("\"/srv/dugong/token\"",            "\"token\"",                      "http.token_file = \"token\" is relative"),
        ("[http]",                           "[http",                          "line 23: "),
    ];
    for (from, to, expected) in cases {
        assert!(WHOLE.contains(from), "{from}");
        let message = match Config::parse(&WHOLE.replacen(from, to, 1)) {
            Ok(config) => panic!("{to:?} was taken: {config:?}"),
            Err(problem) => problem.to_string(),
        };
        assert!(message.contains(expected), "{to:?} is answered with {message:?}");
        assert!(!message.contains('\n'), "{to:?}: one line, not {message:?}");
    }
}

#[test]
fn first_data_that_comes_from_elsewhere_has_keys_of_its_own() {
    const COMMAND: &str = "command = \"cp -a /backup/. $DUGONG_DATA\"";
    const BOTH: &str = "method = \"command\"\ncommand = \"cp -a /backup/. $DUGONG_DATA\"";
    #[rustfmt::skip]
    let cases = [
        ("method = \"command\"",             "method = \"initdb\"",            "command in [bootstrap] is for method = \"command\""),
        ("method = \"command\"",             "method = \"magic\"",             "unknown variant `magic`"),
        ("method = \"command\"",             "methd = \"command\"",            "in [bootstrap]; did you mean \"method\"?"),
        ("\"cp -a /backup/. $DUGONG_DATA\"",  "\" \"",                          "method = \"command\" needs the key command"),
        ("method = \"command\"",             "method = \"adopt\"",             "command in [bootstrap] is for method = \"command\""),
        (COMMAND,                            "data = \"/srv/old\"",             "data in [bootstrap] is for method = \"adopt\""),
        (BOTH,                               "method = \"adopt\"",             "method = \"adopt\" needs the key data"),
        (BOTH,                               "method = \"adopt\"\ndata = \"old\"", "bootstrap.data = \"old\" is relative"),
        (BOTH,                               "method = \"follow\"",            "method = \"follow\" needs the key primary"),
        (BOTH,                               "method = \"follow\"\nprimary = \"host=old\"", "bootstrap.primary: it must name a host and a user"),
        (COMMAND,                            "password_file = \"/srv/old\"",    "password_file in [bootstrap] is for method = \"follow\""),
    ];
    for (from, to, expected) in cases {
        assert!(WHOLE.contains(from), "{from}");
        let message = Config::parse(&WHOLE.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(message.contains(expected), "{to:?} is answered with {message:?}");
    }
    let adopts = WHOLE.replace(BOTH, "method = \"adopt\"\ndata = \"/srv/old\"");
    assert_eq!(Config::parse(&adopts).unwrap().origin, Origin::Adopt("/srv/old".into()));
    let refused = Config::parse(&adopts.replace("keep_diverged = 3", "keep_diverged = 0"));
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("do not go together"), "{message}");
}

#[test]
fn etcd_has_keys_of_its_own() {
    let config = Config::parse(&with_etcd()).unwrap();
    let StoreBackend::Etcd(etcd) = config.store.backend else { panic!("{:?}", config.store) };
    assert_eq!(etcd.endpoints, ["https://10.0.0.1:2379", "https://etcd-2:2379"]);
    assert_eq!(etcd.login, Some(("dugong".to_owned(), "/etc/dugong/etcd-password".into())));
    assert_eq!(etcd.request_timeout, Duration::from_millis(500));
    #[rustfmt::skip]
    let cases = [
        ("https://etcd-2:2379",                       "http://etcd-2:2379",  "store.endpoints: \"http://etcd-2:2379\""),
        ("https://etcd-2:2379",                       "https://etcd-2",      "is no member of etcd"),
        ("\"https://10.0.0.1:2379\", \"https://etcd-2:2379\"", "",           "needs the key endpoints"),
        ("ca = \"/etc/dugong/ca.crt\"",               "",                    "belong together"),
        ("user = \"dugong\"",                         "",                    "store.password_file without store.user"),
        ("key = \"/etc/dugong/pg-1.key\"",            "",                    "store.cert without store.key"),
        ("\"/etc/dugong/pg-1.key\"",                  "\"pg-1.key\"",        "store.key = \"pg-1.key\" is relative"),
        ("\"500ms\"",                                 "\"50ms\"",            "store.request_timeout = \"50ms\" is out of range"),
        ("\"500ms\"",                                 "\"2s\"",              "beside store.session_ttl = \"4s\": a renewal must have"),
    ];
    for (from, to, expected) in cases {
        assert!(with_etcd().contains(from), "{from}");
        let message = match Config::parse(&with_etcd().replacen(from, to, 1)) {
            Ok(config) => panic!("{to:?} was taken: {config:?}"),
            Err(problem) => problem.to_string(),
        };
        assert!(message.contains(expected), "{to:?} is answered with {message:?}");
    }
}

#[test]
fn a_refusal_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("controller.toml");
    let missing = Config::load(&path).unwrap_err().to_string();
    assert!(missing.contains("controller.toml: cannot be read: "), "{missing}");
    std::fs::write(&path, SMALLEST.replace("path", "paht")).unwrap();
    let misspelt = Config::load(&path).unwrap_err().to_string();
    assert!(misspelt.starts_with(&path.display().to_string()), "{misspelt}");
    assert!(misspelt.ends_with("in [store]; did you mean \"path\"?"), "{misspelt}");
    std::fs::write(&path, SMALLEST).unwrap();
    assert_eq!(Config::load(&path).unwrap(), Config::parse(SMALLEST).unwrap());
}

#[test]
fn the_example_names_every_key_and_its_defaults_are_the_defaults() {
    let mut known = keys::SECTIONS.iter().flat_map(|(section, keys)| {
        let is_key = |key: &&&str| keys::SECTIONS.iter().all(|(section, _)| *section != **key);
        keys.iter().filter(is_key).map(move |key| (*section, *key))
    });
    let named: Vec<_> = keys::example().map(|line| (line.section, line.key)).collect();
    assert_eq!(known.find(|place| !named.contains(place)), None, "is not in the example");

    let text = include_str!("../../controller.toml.example");
    let etcd = text.replace("\n#kind = \"sqlite\"", "\nkind = \"etcd\"");
    let etcd = etcd.replace("\npath =", "\n#path =").replace("\n#endpoints =", "\nendpoints =");
    for line in keys::example() {
        let text = match line.said {
            keys::Said::Default => text,
            keys::Said::DefaultOfEtcd => &etcd,
            keys::Said::Required | keys::Said::None => continue,
        };
        // In its place, alone: one_node and bootstrap_size exclude each other.
        let said = text.replacen(&format!("\n#{}", line.text), &format!("\n{}", line.text), 1);
        assert_ne!(said, text, "{line:?}");
        assert_eq!(Config::parse(&said).unwrap(), Config::parse(text).unwrap(), "{line:?}");
    }
    for line in keys::example().filter(|line| line.said == keys::Said::Required) {
        let without = text.replacen(&format!("\n{}", line.text), "", 1);
        assert!(Config::parse(&without).is_err(), "{line:?}");
    }
}

#[test]
fn the_environment_has_the_last_word_and_what_is_understood_says_so() {
    let overrides = |name: &str, value: &str| {
        env::overrides([(name.into(), value.into())].into_iter()).unwrap()
    };
    let said = overrides("DUGONG_HTTP_LISTEN", "10.0.0.9:8008");
    let (config, table) = Config::parse_with(SMALLEST, &said).unwrap();
    assert_eq!(config.http.listen.to_string(), "10.0.0.9:8008");
    let line = |key: &str| table.lines().find(|line| line.starts_with(key)).unwrap();
    assert!(line("http.listen").ends_with("# DUGONG_HTTP_LISTEN"), "{table}");
    assert!(line("timings.link_ttl").contains("\"2s\""), "{table}");
    assert!(line("timings.link_ttl").ends_with("# default"), "{table}");
    assert!(line("instance").ends_with("\"pg-1\""), "{table}");

    let said = overrides("DUGONG_STORE_SESSION_TTL", "soon");
    let refused = Config::parse_with(SMALLEST, &said).unwrap_err().to_string();
    assert!(refused.starts_with("with DUGONG_STORE_SESSION_TTL of the environment: "), "{refused}");
    assert!(!refused.contains('\n'), "{refused}");
}
