//! Controllers that are asked over TLS, and want to know who asks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::controller::{Controller, cluster};
use crate::eventually::eventually;
use crate::name_server::NameServer;
use crate::proxy::Proxy;

/// An authority, its certificate in `ca.crt`, and TLS in front of `behind`.
async fn in_front_of(behind: u16, folder: &TempDir) -> u16 {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    write(folder, "ca.crt", &params.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let names = ["127.0.0.1", "controller.dugong.test"].map(str::to_owned);
    let names = CertificateParams::new(names).unwrap();
    let certificate = names.signed_by(&key, &issuer).unwrap().der().clone();
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Whoever does not believe us goes away again.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap_or_default();
            let head = &head[..length];
            if !String::from_utf8_lossy(head).contains("authorization: Bearer open sesame\r\n") {
                let refused = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
                let _ = stream.write_all(refused).await;
                continue;
            }
            let mut controller = TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
            controller.write_all(head).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut stream, &mut controller).await });
        }
    });
    port
}

fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[tokio::test]
async fn controllers_are_verified_and_get_the_token() {
    let controller = Controller::start().await;
    controller.publish(cluster(1, 1, (1, 1), &[]));
    let folder = tempfile::tempdir().unwrap();
    let stranger = tempfile::tempdir().unwrap();
    in_front_of(controller.port, &stranger).await;
    let port = in_front_of(controller.port, &folder).await;
    let right = write(&folder, "token", "open sesame\n");
    let wrong = write(&folder, "wrong", "open says me\n");
    let (ours, theirs) = (folder.path().join("ca.crt"), stranger.path().join("ca.crt"));
    #[rustfmt::skip]
    let cases = [
        // trusted   token          is said
        (&theirs,    Some(&right),  "its certificate was signed by no authority of controller_ca"),
        (&ours,      Some(&wrong),  "controller_token_file must have the controllers' token"),
        (&ours,      None,          "controller_token_file must have the controllers' token"),
        (&ours,      Some(&right),  "/: connected"),
    ];
    for (ca, token, expected) in cases {
        let url = format!("https://127.0.0.1:{port}");
        let ca = ca.to_str().unwrap();
        let mut flags = vec!["--controller", url.as_str(), "--controller-ca", ca];
        if let Some(token) = token {
            flags.extend(["--controller-token-file", token.to_str().unwrap()]);
        }
        let proxy = Proxy::start(&flags);
        let expected = expected.replace("/:", &format!("{url}:"));
        eventually(&expected, async || proxy.log().contains(&expected)).await;
        assert!(!proxy.log().contains("sesame"), "{}", proxy.log());
    }
}

#[tokio::test]
async fn a_controller_that_srv_records_name_must_be_the_one_that_they_name() {
    let controller = Controller::start().await;
    controller.publish(cluster(1, 1, (1, 1), &[]));
    let folder = tempfile::tempdir().unwrap();
    let port = in_front_of(controller.port, &folder).await;
    let token = write(&folder, "token", "open sesame\n");
    let dns = NameServer::start().await;
    dns.host("impostor.dugong.test", &["127.0.0.1"]).await;
    dns.host("controller.dugong.test", &["127.0.0.1"]).await;
    dns.service("_dugong._tcp.main.dugong.test", &[("impostor.dugong.test", port)]).await;
    let (ca, resolver) = (folder.path().join("ca.crt"), dns.address());
    let proxy = Proxy::start(&[
        "--controller",
        "srv+https://_dugong._tcp.main.dugong.test",
        "--controller-ca",
        ca.to_str().unwrap(),
        "--controller-token-file",
        token.to_str().unwrap(),
        "--resolver",
        &resolver,
    ]);
    let refused = "its certificate is for another host: it is reached as impostor.dugong.test";
    eventually(refused, async || proxy.log().contains(refused)).await;
    assert_eq!(proxy.health().await["generation"], serde_json::Value::Null);
    dns.service("_dugong._tcp.main.dugong.test", &[("controller.dugong.test", port)]).await;
    proxy.believes(1, 1).await;
}
