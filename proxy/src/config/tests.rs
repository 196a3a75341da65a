//! What a configuration may say, and what it is told when it may not.

use super::keys::KEYS;
use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Settings::parse(Path::new("proxy.toml"), text)?.try_into()
}

#[test]
fn a_file_says_everything_that_flags_can() {
    let config = parse(
        r#"
        controllers = ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]
        resolvers = ["10.0.0.1", "10.0.0.2:5353"]
        mode = "session"
        listen = "0.0.0.0"
        write_port = 1
        read_port = 2
        http_port = 3
        tls_cert = "/c"
        tls_key = "/k"
        write_tls = "require"
        server_tls = "verify-ca"
        server_ca = "/a"
        hold_timeout = "5s"
        max_held = 7
        handshake_timeout = "250ms"
        connect_timeout = "1s"
        drain_timeout = "1min"
        max_lag = 1024
        max_lag_time = "3s"
        slow_start = "4s"
        read_near = ["pg-2", "pg-4"]
        read_weights = ["pg-3=2"]
        read_fallback = "refuse"
        relay_engine = "io_uring"
        relay_threads = 3
        log_level = "debug"
        "#,
    )
    .unwrap();
    let urls = ["http://127.0.0.1:8001", "http://127.0.0.1:8002"];
    let expected = Config {
        source: Source::Controllers {
            urls: urls.map(|url| url.parse().unwrap()).to_vec(),
            trust: Trust::default(),
        },
        mode: Mode::Session,
        resolvers: ["10.0.0.1:53", "10.0.0.2:5353"].map(|server| server.parse().unwrap()).to_vec(),
        listen: "0.0.0.0".parse().unwrap(),
        write_port: 1,
        read_port: 2,
        http_port: 3,
        client_tls: Some(ClientTls { cert: "/c".into(), key: "/k".into(), client_ca: None }),
        write_tls: Encryption::Require,
        read_tls: Encryption::Allow,
        server_tls: Some(ServerTls {
            rule: ServerRule::VerifyCa,
            ca: Some("/a".into()),
            identity: None,
        }),
        hold_timeout: Duration::from_secs(5),
        max_held: 7,
        handshake_timeout: Duration::from_millis(250),
        connect_timeout: Duration::from_secs(1),
        drain_timeout: Duration::from_secs(60),
        reads: ReadRules {
            max_lag: LagLimit { bytes: 1024, time: Some(Duration::from_secs(3)) },
            fallback: ReadFallback::Refuse,
        },
        slow_start: Duration::from_secs(4),
        preferences: Preferences {
            near: ["pg-2", "pg-4"].map(|id| id.parse().unwrap()).to_vec(),
            weights: vec!["pg-3=2".parse().unwrap()],
        },
        relay_threads: NonZero::new(3),
        relay_engine: EngineChoice::IoUring,
        log_level: Some("debug".to_owned()),
    };
    assert_eq!(config, expected);
}

#[test]
fn what_is_wrong_is_said_in_one_sentence() {
    #[rustfmt::skip]
    let cases = [
        ("",                                        "nothing to connect to"),
        ("hold_timout = \"1s\"",                    "unknown key \"hold_timout\", did you mean \"hold_timeout\"?"),
        ("xyz = 1",                                 "unknown key \"xyz\"; the known ones are controllers"),
        ("primary = \"a:1\"\nhold_timeout = \"30\"", "line 2: \"30\" is no duration"),
        ("primary = \"a:1\"\nhold_timeout = 30",    "line 2: invalid type"),
        ("primary = \"a\"",                         "line 1: \"a\" is no address"),
        ("primary = ",                              "line 1: "),
        ("replicas = [\"a:1\"]",                    "replicas need a primary"),
        ("controllers = [\"http://a:1\"]\nprimary = \"a:1\"", "exclude each other"),
        ("controllers = [\"srv+http://a:1\"]",  "names no SRV records"),
        ("primary = \"a:1\"\nresolvers = [\"b\"]", "line 2: \"b\" is no address of a name server"),
        ("controllers = [\"a:1\"]",                 "write http://HOST:PORT"),
        ("controllers = [\"https://a:1\"]",         "controller_ca must name the certificates"),
        ("controllers = [\"srv+https://_a._tcp.b\"]", "controller_ca must name the certificates"),
        ("controllers = [\"http://a:1\"]\ncontroller_token_file = \"/t\"", "would be sent in clear"),
        ("controllers = [\"srv+http://_a._tcp.b\"]\ncontroller_token_file = \"/t\"", "would be sent in clear"),
        ("controllers = [\"http://a:1\"]\ncontroller_cert = \"/t\"", "belong together"),
        ("primary = \"a:1\"\ntls_cert = \"/t\"",  "tls_cert and tls_key belong together"),
        ("primary = \"a:1\"\nserver_tls = \"verify-full\"", "set server_ca, or"),
        ("primary = \"a:1\"\nserver_tls = \"require\"\nserver_ca = \"/a\"", "but this server_tls asks nobody"),
        ("primary = \"a:1\"\nserver_tls = \"disable\"\nserver_ca = \"/a\"", "encrypts nothing"),
        ("primary = \"a:1\"\nserver_key = \"/k\"", "server_cert and server_key belong together"),
        ("primary = \"a:1\"\nserver_tls = \"yes\"", "line 2: unknown variant"),
        ("primary = \"a:1\"\nread_tls = \"allow\"", "read_tls needs a certificate"),
        ("primary = \"a:1\"\ntls_client_ca = \"/t\"", "tls_client_ca needs a certificate"),
        ("primary = \"a:1\"\ntls_cert = \"/c\"\ntls_key = \"/k\"\ntls_client_ca = \"/t\"\nread_tls = \"allow\"", "read_tls = \"allow\" lets clients in"),
        ("primary = \"a:1\"\nconnect_timeout = \"0s\"", "connect_timeout must be longer"),
        ("primary = \"a:1\"\nread_port = 6432",     "write_port and read_port are both 6432"),
        ("primary = \"a:1\"\nwrite_port = 65536",   "line 2: "),
        ("primary = \"a:1\"\nread_weights = [\"pg-2\"]", "line 2: \"pg-2\" is no weight: write ID=WEIGHT"),
        ("primary = \"a:1\"\nread_weights = [\"pg-2=2\", \"pg-2=3\"]", "read_weights names pg-2 twice"),
        ("primary = \"a:1\"\nmax_held = -1",        "line 2: "),
        ("primary = \"a:1\"\nread_fallback = \"x\"", "line 2: unknown variant"),
        ("primary = \"a:1\"\nmode = \"x\"",     "line 2: unknown variant"),
        ("primary = \"a:1\"\nmode = \"tcp\"\ntls_cert = \"/c\"\ntls_key = \"/k\"", "remove tls_cert"),
        ("primary = \"a:1\"\nmode = \"tcp\"\nserver_tls = \"require\"", "remove server_tls"),
        ("primary = \"a:1\"\nrelay_engine = \"x\"", "line 2: unknown variant"),
        ("primary = \"a:1\"\nrelay_threads = 0",  "line 2: invalid value"),
        ("primary = \"a:1\"\nlog_level = \"a=b=c\"", "is no log level"),
    ];
    for (text, expected) in cases {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{text:?}: {error}");
    }
}

#[test]
fn every_known_key_is_one_that_the_file_may_have() {
    for key in KEYS {
        let error = Settings::parse(Path::new("proxy.toml"), &format!("{key} = {{}}"))
            .expect_err(key)
            .to_string();
        assert!(!error.contains("unknown"), "{key}: {error}");
    }
}

#[test]
fn flags_win_over_the_file_and_a_source_is_replaced_as_a_whole() {
    let file = Settings {
        primary: Some(Address::loopback(1)),
        replicas: vec![Address::loopback(2)],
        max_held: Some(1),
        max_lag: Some(2),
        ..Settings::default()
    };
    let flags =
        Settings { primary: Some(Address::loopback(3)), max_held: Some(4), ..Settings::default() };
    let expected = Settings {
        primary: Some(Address::loopback(3)),
        max_held: Some(4),
        max_lag: Some(2),
        ..Settings::default()
    };
    assert_eq!(flags.over(file), expected);
}

#[test]
fn everything_but_tls_may_pass_through() {
    let config = parse("primary = \"a:1\"\nmode = \"tcp\"").unwrap();
    assert_eq!(config.mode, Mode::Tcp);
}

#[test]
fn several_listeners_may_ask_for_any_free_port() {
    let any = "primary = \"a:1\"\nwrite_port = 0\nread_port = 0\nhttp_port = 0";
    assert!(parse(any).is_ok());
}

#[test]
fn the_example_names_every_key_with_its_default() {
    let example = include_str!("../../proxy.toml.example");
    let as_it_is = parse(example).unwrap();
    let nothing_said = parse("controllers = [\"http://127.0.0.1:8001\"]").unwrap();
    assert_eq!(as_it_is, nothing_said);

    // Each line that says a key, once; those without a default are said by themselves.
    let has_default = |key: &str| {
        !key.starts_with("controller")
            && !key.contains("tls")
            && !key.starts_with("server")
            && !["primary", "replicas", "resolvers", "max_lag_time", "relay_threads", "log_level"]
                .contains(&key)
            && !["read_near", "read_weights"].contains(&key)
    };
    let mut named = Vec::new();
    let mut defaults = String::from("controllers = [\"http://127.0.0.1:8001\"]\n");
    for line in example.lines().filter(|line| !line.starts_with("# ")) {
        let said = line.trim_start_matches('#');
        let Some((key, _)) = said.split_once(" = ") else { continue };
        Settings::parse(Path::new("proxy.toml.example"), said).expect(line);
        if has_default(key) {
            defaults.push_str(&format!("{said}\n"));
        }
        named.push(key);
    }
    named.dedup();
    assert_eq!(named, KEYS, "each key, in order");
    assert_eq!(parse(&defaults).unwrap(), nothing_said, "the values are the defaults");
}
