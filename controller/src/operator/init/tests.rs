//! What is written for a new cluster, and what is refused.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::{Config, StoreBackend};
use crate::credentials::Credentials;

fn options(out: &Path) -> Options {
    let machine = |number| format!("pg-{number}=10.0.0.{number}").parse().unwrap();
    Options {
        instances: (1..=3).map(machine).collect(),
        etcd: Vec::new(),
        networks: vec!["10.0.0.2/31".parse().unwrap()],
        proxies: vec!["10.0.0.10".parse().unwrap()],
        cluster: "orders".parse().unwrap(),
        zone: "dugong.internal".to_owned(),
        config_dir: "/etc/dugong".to_owned(),
        data_dir: PathBuf::from("/var/lib/dugong"),
        out: out.to_owned(),
    }
}

/// Every file below `out`, by its path from there.
fn files(out: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for folder in fs::read_dir(out).unwrap().flatten() {
        for file in fs::read_dir(folder.path()).unwrap().flatten() {
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", file.path());
            let name = file.path().strip_prefix(out).unwrap().to_str().unwrap().to_owned();
            found.insert(name, fs::read_to_string(file.path()).unwrap());
        }
    }
    found
}

#[test]
fn each_machine_gets_what_it_needs_and_the_authoritys_key_is_apart() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("cluster");
    let next = init(&options(&out)).unwrap();
    let files = files(&out);
    #[rustfmt::skip]
    let expected = [
        "ca/README", "ca/ca.crt", "ca/ca.key",
        "pg-1/ca.crt", "pg-1/controller.toml", "pg-1/credentials.json",
        "pg-1/dugong-controller.service", "pg-1/pg-1.crt", "pg-1/pg-1.key", "pg-1/read-token",
        "pg-1/token",
    ];
    let names: Vec<_> = files.keys().take(expected.len()).map(String::as_str).collect();
    assert_eq!(names, expected);
    let names: Vec<_> = files.keys().filter(|name| name.starts_with("proxy/")).collect();
    assert_eq!(
        names,
        ["proxy/ca.crt", "proxy/dugong-proxy.service", "proxy/proxy.toml", "proxy/read-token"]
    );
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o700);

    for (name, content) in &files {
        let holds = |word: &str| content.contains(word);
        assert_eq!(holds("PRIVATE KEY"), name.ends_with(".key"), "{name}");
        let places = content.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
        let left = places.map(|(place, _)| place).find(|place| !place.contains(' '));
        assert_eq!(left, None, "{name}");
        let password = Credentials::load(&out.join("pg-1/credentials.json")).unwrap().superuser;
        assert_eq!(holds(password.password.expose()), name.ends_with("credentials.json"), "{name}");
    }
    let same = ["ca.crt", "credentials.json", "token", "read-token"];
    for name in same {
        assert_eq!(files[&format!("pg-1/{name}")], files[&format!("pg-3/{name}")], "{name}");
    }
    assert_ne!(files["pg-1/token"], files["pg-1/read-token"]);
    assert_ne!(files["pg-1/pg-1.key"], files["pg-2/pg-2.key"]);
    for words in ["10.0.0.2, as /etc/dugong\n", "/ca for yourself", "/etc/dugong-proxy/proxy.toml"]
    {
        assert!(next.contains(words), "{words:?} in {next}");
    }
}

#[test]
fn what_is_written_is_understood() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("cluster");
    init(&options(&out)).unwrap();
    let path = out.join("pg-3/controller.toml");
    let config = Config::load(&path).unwrap();
    assert_eq!(config.instance.as_str(), "pg-3");
    assert_eq!(config.cluster, "orders");
    assert_eq!(config.dir, Path::new("/var/lib/dugong/pg-3"));
    assert_eq!(config.postgres.listen.to_string(), "10.0.0.3:5432");
    assert_eq!(config.postgres.tls.unwrap().key, Path::new("/etc/dugong/pg-3.key"));
    let shown = |networks: &[Network]| networks.iter().map(ToString::to_string).collect::<Vec<_>>();
    // 10.0.0.2 and 10.0.0.3 are in the network that was named.
    assert_eq!(shown(&config.postgres.networks), ["10.0.0.2/31", "10.0.0.1/32", "10.0.0.10/32"]);
    assert_eq!(shown(&config.postgres.plain_networks), [""; 0], "nobody comes in clear");
    let proxy: toml::Table =
        fs::read_to_string(out.join("proxy/proxy.toml")).unwrap().parse().unwrap();
    assert_eq!(proxy["server_tls"].as_str(), Some("verify-full"));
    assert_eq!(proxy["server_ca"].as_str(), Some("/etc/dugong-proxy/ca.crt"));
    assert_eq!(config.http.listen.to_string(), "10.0.0.3:8008");
    let tls = config.http.tls.unwrap();
    assert_eq!(tls.cert, Path::new("/etc/dugong/pg-3.crt"));
    assert_eq!(tls.client_ca.as_deref(), Some(Path::new("/etc/dugong/ca.crt")));
    let StoreBackend::Etcd(etcd) = config.store.backend else { panic!("{:?}", config.store) };
    assert_eq!(etcd.endpoints[2], "http://10.0.0.3:2379");

    // Of an etcd with TLS, and with a name of its own.
    let out = place.path().join("other");
    let etcd = vec!["https://etcd.example:2379".to_owned()];
    init(&Options { etcd, ..options(&out) }).unwrap();
    let text = fs::read_to_string(out.join("pg-1/controller.toml")).unwrap();
    assert!(text.contains("\nca = \"/etc/dugong/etcd-ca.crt\"\n"), "{text}");
}

#[test]
fn nothing_is_overwritten_and_an_empty_directory_is_used() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("cluster");
    fs::create_dir(&out).unwrap();
    init(&options(&out)).unwrap();
    let before = files(&out);
    let refused = init(&options(&out)).unwrap_err().to_string();
    assert!(refused.contains("is not empty"), "{refused}");
    assert_eq!(files(&out), before);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "no draft stays");
}

#[test]
fn what_makes_no_cluster_is_refused_with_the_reason() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("cluster");
    type Change = fn(&mut Options);
    #[rustfmt::skip]
    let cases: [(Change, &str); 8] = [
        (|o| o.instances.truncate(2),                                "3 to 9 instances"),
        (|o| o.instances[1].id = o.instances[0].id.clone(),          "the same name"),
        (|o| o.instances[1].host = o.instances[0].host.clone(),      "`dugong up`"),
        (|o| o.instances[1].id = "proxy".parse().unwrap(),           "something else"),
        (|o| { o.instances[1].host = "db".into(); o.networks = Vec::new(); }, "--network"),
        (|o| o.etcd = vec!["10.0.0.1:2379".into()],                  "write an URL"),
        (|o| o.config_dir = "etc".into(),                            "whole paths"),
        (|o| o.data_dir = "data".into(),                             "whole paths"),
    ];
    for (change, words) in cases {
        let mut options = options(&out);
        change(&mut options);
        let refused = init(&options).unwrap_err();
        assert!(matches!(refused, Failure::Usage(_)), "{refused}");
        assert!(refused.to_string().contains(words), "{words:?} in {refused}");
        assert!(!out.exists());
    }
    for text in ["pg-1", "pg-1=", "PG=10.0.0.1", "pg-1=10.0.0.1:5432", "pg-1=0.0.0.0", "pg-1=a b"] {
        assert!(text.parse::<Machine>().is_err(), "{text}");
    }
    assert_eq!("pg-1=[fd00::1]".parse::<Machine>().unwrap().host, "fd00::1");
}
