//! HTTPS, tokens and certificates, as the operator's own commands meet them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dugong_controller::config::HttpTls;
use dugong_controller::credentials::Password;
use dugong_controller::operator::freeze::{FreezeOptions, freeze};
use dugong_controller::operator::init::Authority;
use dugong_controller::operator::reach::ReachOptions;
use dugong_controller::operator::status::{self, status};
use dugong_controller::publish::admission::Admission;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{cluster, desk, published, serve_tls};

/// Two authorities, and what each has made.
struct Papers {
    folder: TempDir,
    ours: Authority,
    other: Authority,
}

impl Papers {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [ours, other] = ["ours", "another"].map(|name| Authority::new(name).unwrap());
        let papers = Self { folder, ours, other };
        papers.write("ours.ca", &papers.ours.certificate());
        papers.write("other.ca", &papers.other.certificate());
        papers.sign(&papers.ours, "server", "127.0.0.1");
        papers.sign(&papers.ours, "ann", "ann");
        papers.sign(&papers.other, "mallory", "ann");
        papers.write("token", "open sesame\n");
        papers.write("wrong", "open says me\n");
        papers
    }

    fn sign(&self, by: &Authority, file: &str, name: &str) {
        let signed = by.sign(&[name]).unwrap();
        self.write(&format!("{file}.crt"), &signed.certificate);
        self.write(&format!("{file}.key"), &signed.key);
    }

    /// By an authority of its own, `expired.ca`.
    fn sign_expired(&self, file: &str, name: &str) {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        self.write("expired.ca", &authority.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(authority, key);
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        let key = KeyPair::generate().unwrap();
        self.write(&format!("{file}.crt"), &params.signed_by(&key, &issuer).unwrap().pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    fn write(&self, file: &str, text: &str) {
        // As whoever exchanges it does: whole.
        let (draft, path) = (self.path("draft"), self.path(file));
        fs::write(&draft, text).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(draft, path).unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn tls(&self) -> HttpTls {
        HttpTls {
            cert: self.path("server.crt"),
            key: self.path("server.key"),
            client_ca: Some(self.path("ours.ca")),
        }
    }

    /// A controller with tokens for everything.
    async fn serve(&self) -> u16 {
        let (_sender, topologies) = watch::channel(published(cluster(1)));
        let (folder, desk, admission) = desk();
        let token = Some(Password::of("open sesame".to_owned()));
        let admission =
            Admission { token: token.clone(), read_token: token, certificates: true, ..admission };
        serve_tls("pg-1", topologies, (desk, admission), folder, Some(&self.tls())).await
    }

    fn reach(&self, url: String, ca: &str) -> ReachOptions {
        ReachOptions { controllers: vec![url], ca: Some(self.path(ca)), ..ReachOptions::default() }
    }
}

/// How an attempt to freeze ends; there is no record that could be.
async fn frozen(reach: ReachOptions) -> String {
    freeze(&FreezeOptions { reach, why: "a try".to_owned() }).await.unwrap_err().to_string()
}

const ADMITTED: &str = "the cluster was not made yet";

#[tokio::test]
async fn who_is_known_may_change_and_who_is_not_is_told_what_to_do() {
    let papers = Papers::new();
    let port = papers.serve().await;
    let url = || format!("https://127.0.0.1:{port}");
    let named = |ca: &str, token: Option<&str>, cert: Option<&str>| ReachOptions {
        token_file: token.map(|token| papers.path(token)),
        cert: cert.map(|name| papers.path(&format!("{name}.crt"))),
        key: cert.map(|name| papers.path(&format!("{name}.key"))),
        ..papers.reach(url(), ca)
    };
    #[rustfmt::skip]
    let cases = [
        // trusted by   token           certificate       answer
        ("ours.ca",     Some("token"),  None,             ADMITTED),
        ("ours.ca",     None,           Some("ann"),      ADMITTED),
        ("ours.ca",     None,           None,             "or the token of [http] token_file"),
        ("ours.ca",     Some("wrong"),  None,             "--token-file, or --cert and --key"),
        ("other.ca",    Some("token"),  None,             "its certificate was signed by no authority of --ca"),
        ("ours.ca",     Some("token"),  Some("mallory"),  "fatal alert"),
    ];
    for (ca, token, cert, expected) in cases {
        let said = frozen(named(ca, token, cert)).await;
        assert!(said.contains(expected), "{ca} {token:?} {cert:?}: {said}");
        assert!(!said.contains("sesame"), "{said}");
    }
    let mut page = String::new();
    let reading = |reach| status::Options { reach, json: false, watch: false };
    status(&reading(named("ours.ca", Some("token"), None)), |line| page.push_str(line))
        .await
        .unwrap();
    assert!(page.contains("pg-1"), "{page}");
    let refused = status(&reading(named("ours.ca", None, None)), |_| ()).await.unwrap_err();
    assert!(refused.to_string().contains("read_token_file"), "{refused}");
    // Plain HTTP is no way around.
    let plain = ReachOptions {
        controllers: vec![format!("http://127.0.0.1:{port}")],
        token_file: Some(papers.path("token")),
        ..ReachOptions::default()
    };
    let said = frozen(plain).await;
    assert!(!said.contains(ADMITTED), "{said}");
}

#[tokio::test]
async fn an_exchanged_certificate_is_served_and_a_bad_one_is_not() {
    let papers = Papers::new();
    papers.sign(&papers.ours, "server", "elsewhere");
    let port = papers.serve().await;
    let reach = || ReachOptions {
        token_file: Some(papers.path("token")),
        ..papers.reach(format!("https://127.0.0.1:{port}"), "ours.ca")
    };
    let said = frozen(reach()).await;
    assert!(
        said.contains("another host: it is reached as 127.0.0.1, and the certificate has"),
        "{said}"
    );
    papers.sign(&papers.ours, "server", "127.0.0.1");
    let begun = Instant::now();
    while frozen(reach()).await
        != format!("no controller could answer ({ADMITTED}): is the cluster up?")
    {
        assert!(begun.elapsed() < Duration::from_secs(30), "the new certificate is never served");
    }
    papers.write("server.crt", "no certificate");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(frozen(reach()).await.contains(ADMITTED), "the last good one is served on");
    }
}

#[tokio::test]
async fn as_many_as_may_greet_at_once_and_say_nothing_hold_up_nobody() {
    let papers = Papers::new();
    let port = papers.serve().await;
    let mut silent = Vec::new();
    for _ in 0..256 {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let reach = ReachOptions {
        token_file: Some(papers.path("token")),
        ..papers.reach(format!("https://127.0.0.1:{port}"), "ours.ca")
    };
    assert!(frozen(reach).await.contains(ADMITTED));
    // Nobody's time was up meanwhile: only the first of them had to make room.
    let mut closed = 0;
    for client in &silent {
        let nothing = client.try_read(&mut [0]);
        let waits = nothing.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        closed += usize::from(!waits);
    }
    assert!(closed < 8, "{closed} of the silent ones are gone");
}

#[tokio::test]
async fn an_expired_certificate_is_called_that() {
    let papers = Papers::new();
    papers.sign_expired("server", "127.0.0.1");
    let port = papers.serve().await;
    let said = frozen(papers.reach(format!("https://127.0.0.1:{port}"), "expired.ca")).await;
    assert!(said.contains("its certificate has expired: exchange it"), "{said}");
}

#[tokio::test]
async fn who_never_greets_holds_up_nobody() {
    let papers = Papers::new();
    let port = papers.serve().await;
    let mut silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let said = frozen(ReachOptions {
        token_file: Some(papers.path("token")),
        ..papers.reach(format!("https://127.0.0.1:{port}"), "ours.ca")
    });
    assert!(said.await.contains(ADMITTED));
    silent.write_all(b"GET /v1/topology HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(30), silent.read_to_end(&mut answer));
    // Reset or closed, with an alert at most.
    let _ = ended.await.expect("it is not kept for ever");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}
