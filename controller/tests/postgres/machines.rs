//! Instances of several machines: each has an address of its own, lets in whom it was told, and
//! follows only whom it can verify.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use dugong_controller::config::{ReplicationAuth, TlsFiles};
use dugong_controller::credentials::Credentials;
use dugong_controller::operator::init::Authority;
use dugong_controller::postgres::Settings;
use dugong_machine::{Access, Receiver, Run};
use tempfile::TempDir;
use tokio::process::Command;
use tokio_postgres::error::SqlState;

use crate::instance::{Instance, id};
use crate::process_of_a_test::as_postgres;

/// One half of four neighbours.
const NETWORK: &str = "127.0.0.4/31";
const WITHIN: [&str; 2] = ["127.0.0.4", "127.0.0.5"];
const BESIDE: [&str; 2] = ["127.0.0.6", "127.0.0.7"];

const DENIED: Option<&SqlState> = Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION);

fn at(host: &str) -> impl FnOnce(&mut Settings) {
    let (host, network) = (host.to_owned(), NETWORK.parse().unwrap());
    move |settings| {
        settings.listen.host = host;
        settings.networks = vec![network];
    }
}

/// Makes the files that an instance reads its TLS from.
fn certify(folder: &Path, signer: &Authority, names: &[&str], trusted: &Authority) -> TlsFiles {
    let signed = signer.sign(names).unwrap();
    let write = |name: &str, text: &str| {
        // As people do it: another file in the same place.
        let (path, draft) = (folder.join(name), folder.join("draft"));
        fs::write(&draft, text).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(draft, &path).unwrap();
        path
    };
    TlsFiles {
        cert: write("cert.pem", &signed.certificate),
        key: write("key.pem", &signed.key),
        ca: write("ca.pem", &trusted.certificate()),
        replication_auth: ReplicationAuth::Password,
    }
}

pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().prefix("dugong-tls-").tempdir().unwrap()
}

/// Two instances, each with an address of its own, that speak TLS by certificates of one CA. Their
/// files are in `folders`.
pub(crate) async fn machines_with_tls(folders: &[TempDir; 2]) -> [Instance; 2] {
    certified_by(&Authority::new("ours").unwrap(), folders).await
}

async fn certified_by(ours: &Authority, folders: &[TempDir; 2]) -> [Instance; 2] {
    let credentials = Credentials::generate().unwrap();
    let instance = async |name: &str, host: &str, folder: &TempDir| {
        let files = certify(folder.path(), ours, &[name, host], ours);
        let machine = |settings: &mut Settings| {
            at(host)(settings);
            settings.plain_networks = vec!["127.0.0.6/32".parse().unwrap()];
            settings.tls = Some(files);
        };
        Instance::on_machine(name, &credentials, machine).await
    };
    [
        instance("pg-1", "127.0.0.2", &folders[0]).await,
        instance("pg-2", "127.0.0.3", &folders[1]).await,
    ]
}

/// The application asks for one row by libpq, which verifies the server.
async fn psql(instance: &Instance, ca: &Path) -> Output {
    let (listen, application) = (&instance.told().listen, &instance.credentials.application);
    let dsn = format!(
        "host={} port={} user={} dbname={} sslmode=verify-full sslrootcert={}",
        listen.host,
        listen.port,
        application.name,
        application.database,
        ca.display()
    );
    Command::new("psql")
        .args(["-XAtc", "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &dsn])
        .env("HOME", "/nowhere") // Root's, where there would be certificates to look for.
        .env("PGPASSWORD", application.password.expose())
        .output()
        .await
        .unwrap()
}

/// A standby that was copied from `primary` while it still trusted it, and streams.
pub(crate) async fn follow(primary: &mut Instance, standby: &mut Instance) {
    primary.initialise().await;
    primary.downstreams = [standby.id.clone()].into();
    let names = [standby.id.to_string()];
    primary.primary(&names.each_ref().map(String::as_str), Access::ReadOnly);
    primary.until_primary("it runs", |_| true).await;
    standby.copy_of(primary, 1).await;
    standby.standby(Some(primary));
    standby.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
}

#[test]
fn machines_follow_each_other_and_let_in_their_networks_once_they_are_open() {
    as_postgres(async {
        let credentials = Credentials::generate().unwrap();
        let mut primary = Instance::on_machine("pg-1", &credentials, at("127.0.0.2")).await;
        let mut standby = Instance::on_machine("pg-2", &credentials, at("127.0.0.3")).await;
        follow(&mut primary, &mut standby).await;

        // R5: not open yet, wherever they come from.
        for address in WITHIN.into_iter().chain(BESIDE) {
            assert_eq!(primary.log_in_from(address).await.unwrap_err().code(), DENIED, "{address}");
        }
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_open().await;
        for instance in [&primary, &standby] {
            instance.log_in().await.unwrap();
            for address in WITHIN {
                instance.log_in_from(address).await.unwrap();
            }
            for address in BESIDE {
                let refused = instance.log_in_from(address).await.unwrap_err();
                assert_eq!(refused.code(), DENIED, "{address}: {refused}");
            }
        }
    });
}

#[test]
fn with_tls_replication_is_verified_and_networks_need_it_and_certificates_are_exchanged() {
    as_postgres(async {
        let (ours, others) = (Authority::new("ours").unwrap(), Authority::new("others").unwrap());
        let folders = [folder(), folder()];
        let [mut primary, mut standby] = certified_by(&ours, &folders).await;
        follow(&mut primary, &mut standby).await;
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_open().await;
        let client = primary.client().await;
        let encrypted = "SELECT ssl FROM pg_stat_ssl s JOIN pg_stat_replication r USING (pid) \
                         WHERE r.application_name = 'pg-2'";
        assert!(client.query_one(encrypted, &[]).await.unwrap().get::<_, bool>(0));

        // Libpq verifies; plain is refused from the network, but for where proxies are.
        let ca = folders[0].path().join("ca.pem");
        let asked = psql(&primary, &ca).await;
        assert!(asked.status.success() && asked.stdout.starts_with(b"TLSv1."), "{asked:?}");
        for address in ["127.0.0.4", "127.0.0.5", "127.0.0.7"] {
            let refused = primary.log_in_from(address).await.unwrap_err();
            assert_eq!(refused.code(), DENIED, "{address}: {refused}");
        }
        primary.log_in_from("127.0.0.6").await.unwrap();

        // Half an exchange is not taken, and said; a whole one is taken.
        let whole = others.sign(&["127.0.0.2"]).unwrap();
        fs::write(folders[0].path().join("cert.pem"), &whole.certificate).unwrap();
        primary
            .until("the mismatch is said", |server| {
                server.trouble.as_ref().is_some_and(|why| why.contains("is not the key of"))
            })
            .await;
        assert!(psql(&primary, &ca).await.status.success(), "the old certificate still serves");
        fs::write(folders[0].path().join("key.pem"), &whole.key).unwrap();
        primary.until("nothing is wrong", |server| server.trouble.is_none()).await;
        let theirs = folders[1].path().join("others.pem");
        fs::write(&theirs, others.certificate()).unwrap();
        while !psql(&primary, &theirs).await.status.success() {
            primary.next().await; // The server reads its files in a moment. Ends at the deadline.
        }
        assert!(!psql(&primary, &ca).await.status.success());
    });
}

#[test]
fn a_standby_is_known_by_its_certificate_where_that_is_said_and_by_no_password() {
    as_postgres(async {
        let (ours, others) = (Authority::new("ours").unwrap(), Authority::new("others").unwrap());
        let folders = [folder(), folder()];
        let mut instances = Vec::new();
        for (name, folder) in ["pg-1", "pg-2"].into_iter().zip(&folders) {
            let files = certify(folder.path(), &ours, &[name, "127.0.0.2", "127.0.0.3"], &ours);
            let host = if name == "pg-1" { "127.0.0.2" } else { "127.0.0.3" };
            let machine = |settings: &mut Settings| {
                at(host)(settings);
                let replication_auth = ReplicationAuth::Certificate;
                settings.tls = Some(TlsFiles { replication_auth, ..files });
            };
            // Each with passwords that are none of the other one's.
            let credentials = Credentials::generate().unwrap();
            instances.push(Instance::on_machine(name, &credentials, machine).await);
        }
        let [mut primary, mut standby] = <[Instance; 2]>::try_from(instances).ok().unwrap();

        follow(&mut primary, &mut standby).await;

        let client = primary.client().await;
        let shown = "SELECT client_dn FROM pg_stat_ssl s JOIN pg_stat_replication r USING (pid)";
        let row = client.query_one(shown, &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "/CN=pg-2");
        // The password alone, by TLS.
        let right = &primary.credentials.replication;
        let (listen, ca) = (&primary.told().listen, folders[0].path().join("ca.pem"));
        let dsn = format!(
            "host={} port={} user={} dbname=postgres sslmode=verify-full sslrootcert={} \
             sslcert=/nowhere",
            listen.host,
            listen.port,
            right.name,
            ca.display()
        );
        let asked = Command::new("psql")
            .args(["-XAtc", "SELECT 1", &dsn])
            .env("PGPASSWORD", right.password.expose())
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&asked.stderr);
        assert!(said.contains("requires a valid client certificate"), "{said}");
        // Nor one of another authority.
        certify(folders[1].path(), &others, &["pg-2", "127.0.0.3"], &ours);
        client
            .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
            .await
            .unwrap();
        standby
            .until("it is not let in", |server| {
                server.trouble.as_ref().is_some_and(|why| why.contains("unknown ca"))
            })
            .await;
    });
}

#[test]
fn a_standby_follows_nobody_whom_it_cannot_verify() {
    as_postgres(async {
        let (ours, others) = (Authority::new("ours").unwrap(), Authority::new("others").unwrap());
        let (mine, theirs) = (folder(), folder());
        let credentials = Credentials::generate().unwrap();
        let files = certify(mine.path(), &ours, &["127.0.0.2"], &ours);
        let machine = |settings: &mut Settings| {
            at("127.0.0.2")(settings);
            settings.tls = Some(files);
        };
        let mut primary = Instance::on_machine("pg-1", &credentials, machine).await;
        let files = certify(theirs.path(), &ours, &["127.0.0.3"], &ours);
        let machine = |settings: &mut Settings| {
            at("127.0.0.3")(settings);
            settings.tls = Some(files);
        };
        let mut standby = Instance::on_machine("pg-2", &credentials, machine).await;
        follow(&mut primary, &mut standby).await;

        // Another CA: no WAL and no copy come.
        let mut ended = standby.end().await;
        ended.tell(|settings| {
            let files = certify(theirs.path(), &others, &["127.0.0.3"], &others);
            settings.tls = Some(files);
        });
        let mut standby = ended.resume();
        standby.standby(Some(&primary));
        refuses(&mut standby, "certificate verify failed").await;
        standby.want(standby.copy_goal(&primary, 2));
        refuses(&mut standby, "certificate verify failed").await;
        assert_eq!(standby.server.identity().unwrap().making, 1, "it was not copied");

        // The right CA, but another machine's certificate.
        let mut ended = standby.end().await;
        ended.tell(|settings| {
            let files = certify(theirs.path(), &ours, &["127.0.0.3"], &ours);
            settings.tls = Some(files);
        });
        let mut standby = ended.resume();
        standby.standby(Some(&primary));
        standby.until_standby("it streams again", |v| v.receiver == Receiver::Streaming).await;
        let mut before = primary.end().await;
        before.tell(|settings| {
            let files = certify(mine.path(), &ours, &["pg-1", "127.0.0.9"], &ours);
            settings.tls = Some(files);
        });
        let mut primary = before.resume();
        primary.downstreams = [id("pg-2")].into();
        primary.primary(&["pg-2"], Access::ReadOnly);
        primary.until_primary("it runs", |_| true).await;
        refuses(&mut standby, "127.0.0.2").await;
        let senders = "SELECT count(*) FROM pg_stat_replication";
        let row = primary.client().await.query_one(senders, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 0, "nobody follows");
    });
}

/// Waits until it says that it cannot verify its upstream; it never streams meanwhile.
async fn refuses(standby: &mut Instance, words: &str) {
    standby
        .until("it says why it follows nobody", |server| {
            let streams =
                matches!(&server.run, Run::Standby(view) if view.receiver == Receiver::Streaming);
            let said = server.trouble.as_ref().is_some_and(|why| why.contains(words));
            !streams
                && said
                && server.trouble.as_ref().is_some_and(|why| why.contains("certificate"))
        })
        .await;
}

#[test]
fn what_postgresql_would_not_take_is_refused_in_a_sentence() {
    use dugong_controller::postgres::supervise;
    as_postgres(async {
        let ours = Authority::new("ours").unwrap();
        let place = folder();
        let credentials = Credentials::generate().unwrap();
        let instance = Instance::on_machine("pg-1", &credentials, |_| ()).await;
        let mut settings = instance.told().clone();
        drop(instance);
        let files = certify(place.path(), &ours, &["127.0.0.1"], &ours);
        settings.tls = Some(files.clone());
        let good = fs::read(&files.key).unwrap();
        let strangers = ours.sign(&["127.0.0.1"]).unwrap().key;
        let mode =
            |mode| fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
        #[rustfmt::skip]
        let cases = [
            // what is so              file          content                      mode   is answered with
            ("others read the key",    &files.key,   Some(&good[..]),                 0o640, "run `chmod 600 "),
            ("a stranger's key",       &files.key,   Some(strangers.as_bytes()),  0o600, "is not the key of the certificate"),
            ("no key",                 &files.key,   Some(&b"moon"[..]),          0o600, "holds no private key"),
            ("no key at all",          &files.key,   None,                        0,     "postgres.tls_key: "),
            ("no certificate",         &files.cert,  Some(b"moon"),              0o600, "postgres.tls_cert: "),
            ("no CA",                  &files.ca,    None,                        0o600, "cannot be read"),
        ];
        for (what, path, content, key_mode, words) in cases {
            certify(place.path(), &ours, &["127.0.0.1"], &ours);
            fs::write(&files.key, &good).unwrap();
            match content {
                Some(content) => fs::write(path, content).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
            if files.key.exists() {
                mode(key_mode);
            }
            let refused = supervise(
                settings.clone(),
                dugong_controller::clock::Clock,
                tokio::sync::watch::channel(None).1,
                tokio::sync::watch::channel(settings.credentials.clone().into()).1,
            );
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(words), "{what}: {message}");
        }
    });
}
