//! The controller's HTTP side, asked over a real socket.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "http/manual.rs"]
mod manual;
#[path = "http/services.rs"]
mod services;
#[path = "http/tls.rs"]
mod tls;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use dugong_controller::clock::Clock;
use dugong_controller::config::HttpTls;
use dugong_controller::credentials::Credentials;
use dugong_controller::driver::Local;
use dugong_controller::publish::admission::Admission;
use dugong_controller::publish::desk::Desk;
use dugong_controller::publish::door::Door;
use dugong_controller::publish::http::{self, Pages};
use dugong_controller::publish::{Published, Topologies};
use dugong_controller::store::sqlite::SqliteStore;
use dugong_machine::{
    Declaration, Guard, Outcome, Reason, Record, RequestNumber, SystemIdentifier,
};
use dugong_topology::{
    Address, Generation, InstanceId, Member, Phase, Position, Revision, TimelineId, Topology,
    stream,
};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusHandle;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

fn member(name: &str, lag_bytes: Option<u64>) -> Member {
    Member {
        id: id(name),
        address: Some(Address::loopback(5000)),
        healthy: true,
        position: None,
        http: None,
        state: "running".to_owned(),
        upstream: lag_bytes.map(|_| id("pg-1")),
        lag_bytes,
        lag_seconds: None,
        making: None,
        note: None,
    }
}

fn cluster(revision: u64) -> Topology {
    Topology {
        generation: Generation(3),
        phase: Phase::ReadWrite,
        primary: Some(member("pg-1", None)),
        sync: Some(member("pg-2", Some(0))),
        asyncs: vec![member("pg-3", Some(2048)), Member { healthy: false, ..member("pg-4", None) }],
        ..Topology::unformed("main".to_owned(), Revision(revision))
    }
}

fn published(topology: Topology) -> Option<Arc<Published>> {
    Some(Arc::new(Published::new(topology, None).unwrap()))
}

fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| dugong_controller::metrics::install("pg-1", "main").unwrap()).clone()
}

/// A store in a directory of its own, and the desk in front of it.
fn desk() -> (TempDir, Desk, Admission) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = SqliteStore::open(&path, id("pg-1"), Duration::from_secs(60)).unwrap();
    let credentials = watch::channel(Arc::new(Credentials::generate().unwrap())).1;
    let admission = Admission { credentials, token: None, read_token: None, certificates: false };
    // Nobody looks after any data here.
    let (give_up, _) = tokio::sync::mpsc::channel(1);
    let (_, migration) = watch::channel(None);
    let (store, me) = (Arc::new(store), id("pg-1"));
    let desk = Desk { store, settings: None, credentials: None, me, give_up, migration };
    (folder, desk, admission)
}

fn superuser_password(admission: &Admission) -> String {
    admission.credentials.borrow().superuser.password.expose().to_owned()
}

/// A controller's pages for the instance `me`, at the port that is returned.
async fn serve(me: &str, topologies: Topologies) -> u16 {
    let (folder, desk, admission) = desk();
    serve_desk(me, topologies, (desk, admission), folder).await
}

async fn serve_desk(
    me: &str,
    topologies: Topologies,
    desk: (Desk, Admission),
    folder: TempDir,
) -> u16 {
    serve_tls(me, topologies, desk, folder, None).await
}

async fn serve_tls(
    me: &str,
    topologies: Topologies,
    (desk, admission): (Desk, Admission),
    folder: TempDir,
    tls: Option<&HttpTls>,
) -> u16 {
    let clock = Clock;
    let local = Local { stepped_at: clock.now(), ..Local::default() };
    let (sender, local) = watch::channel(local);
    let pages = Pages { me: id(me), clock, topologies, local, metrics: metrics() };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let door = Door::open(listener, tls).unwrap();
    tokio::spawn(async move {
        let _kept = (sender, folder);
        http::serve(door, pages, desk, admission).await
    });
    port
}

async fn ask(port: u16, method: &str, path: &str) -> Response<Incoming> {
    send(port, method, path, "", "").await
}

async fn send(
    port: u16,
    method: &str,
    path: &str,
    password: &str,
    body: &'static str,
) -> Response<Incoming> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "controller");
    let request = request.header("authorization", format!("Bearer {password}"));
    let request = request.header("content-type", "application/json");
    requests.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap()
}

#[tokio::test]
async fn load_balancers_get_patronis_answers() {
    #[rustfmt::skip]
    let cases = [
        // path              pg-1   pg-2   pg-3   pg-4
        ("/primary",         [true,  false, false, false]),
        ("/read-write",      [true,  false, false, false]),
        ("/leader",          [true,  false, false, false]),
        ("/replica",         [false, true,  true,  false]),
        ("/replica?lag=1kB", [false, true,  false, false]),
        ("/replica?lag=2048",[false, true,  true,  false]),
        ("/sync",            [false, true,  false, false]),
        ("/async",           [false, false, true,  false]),
        ("/read-only",       [true,  true,  true,  false]),
        ("/health",          [true,  true,  true,  false]),
        ("/readiness",       [true,  true,  true,  false]),
        ("/liveness",        [true,  true,  true,  true]),
    ];
    let (_sender, topologies) = watch::channel(published(cluster(1)));
    for (at, me) in ["pg-1", "pg-2", "pg-3", "pg-4"].into_iter().enumerate() {
        let port = serve(me, topologies.clone()).await;
        for (path, holds) in cases {
            let expected = if holds[at] { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            for method in ["GET", "HEAD", "OPTIONS"] {
                let answer = ask(port, method, path).await;
                assert_eq!(answer.status(), expected, "{me} {method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_stream_shows_the_newest_topology_and_then_each_newer_one() {
    let (sender, topologies) = watch::channel(published(cluster(1)));
    let port = serve("pg-1", topologies).await;
    let mut answer = ask(port, "GET", "/v1/topology/watch").await;
    assert_eq!(answer.headers()["content-type"], stream::CONTENT_TYPE);
    let mut decoder = stream::Decoder::default();
    let mut seen = Vec::new();
    for revision in [2_u32, 3] {
        while seen.len() as u64 + 1 < u64::from(revision) {
            let frame = tokio::time::timeout(Duration::from_secs(10), answer.body_mut().frame());
            let frame = frame.await.unwrap().unwrap().unwrap();
            seen.extend(decoder.push(&frame.into_data().unwrap()).unwrap());
        }
        sender.send_replace(published(cluster(u64::from(revision))));
    }
    assert_eq!(seen, [cluster(1), cluster(2)]);

    let whole = ask(port, "GET", "/v1/topology").await.into_body().collect().await.unwrap();
    let whole: Topology = serde_json::from_slice(&whole.to_bytes()).unwrap();
    assert_eq!(whole, cluster(3));
}

#[tokio::test]
async fn what_is_not_there_is_told() {
    let (_sender, topologies) = watch::channel(None);
    let port = serve("pg-1", topologies).await;
    #[rustfmt::skip]
    let cases = [
        ("/v1/topology",     StatusCode::SERVICE_UNAVAILABLE, "the store was not read yet"),
        ("/primary",         StatusCode::SERVICE_UNAVAILABLE, "the store was not read yet"),
        ("/v1/nowhere",      StatusCode::NOT_FOUND,           "no such path"),
        ("/replica?lag=far", StatusCode::BAD_REQUEST,         "is no lag"),
        ("/v1/health",       StatusCode::OK,                  "\"store\":\"ok\""),
        ("/metrics",         StatusCode::OK,                  "dugong_controller_info"),
    ];
    for (path, status, words) in cases {
        let answer = ask(port, "GET", path).await;
        assert_eq!(answer.status(), status, "{path}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body);
        assert!(body.contains(words), "{path}: {body}");
    }
}

/// Status, and the body as JSON.
async fn told(
    port: u16,
    method: &str,
    path: &str,
    password: &str,
    body: &'static str,
) -> (StatusCode, serde_json::Value) {
    let answer = send(port, method, path, password, body).await;
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

const SWITCHOVER: &str = r#"{"by":"ann","what":{"switchover":
    {"from":"pg-1","to":null,"drain":"10s","deadline":"1m"}}}"#;

#[tokio::test]
async fn operators_need_the_password() {
    let (folder, desk, admission) = desk();
    let store = desk.store.clone();
    let right = superuser_password(&admission);
    let port = serve_desk("pg-1", watch::channel(None).1, (desk, admission), folder).await;
    for wrong in ["", "guessed", &right[1..], &format!("{right}x")] {
        for (method, path) in [
            ("POST", "/v1/requests"),
            ("GET", "/v1/requests/1"),
            ("DELETE", "/v1/requests/1"),
            ("POST", "/v1/freeze"),
            ("DELETE", "/v1/freeze"),
            ("POST", "/v1/migration"),
        ] {
            let (status, body) = told(port, method, path, wrong, SWITCHOVER).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert!(body["error"].as_str().unwrap().contains("bearer token"), "{body}");
        }
    }
    assert_eq!(store.read().await.unwrap().requests.len(), 0, "nothing was written");
}

#[tokio::test]
async fn a_migration_is_ended_only_where_a_primary_is_followed() {
    let (folder, desk, admission) = desk();
    let password = superuser_password(&admission);
    let port = serve_desk("pg-1", watch::channel(None).1, (desk, admission), folder).await;
    let word = r#"{"by":"ann","only_check":false,"even_if_behind":true}"#;
    let (status, body) = told(port, "POST", "/v1/migration", &password, word).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert!(body["error"].as_str().unwrap().contains("pg-1 follows no primary"), "{body}");
}

#[tokio::test]
async fn a_request_is_taken_once_and_its_outcome_told() {
    let (folder, desk, admission) = desk();
    let (store, password) = (desk.store.clone(), superuser_password(&admission));
    let port = serve_desk("pg-1", watch::channel(None).1, (desk, admission), folder).await;
    let (status, taken) = told(port, "POST", "/v1/requests", &password, SWITCHOVER).await;
    assert_eq!((status, &taken["number"]), (StatusCode::CREATED, &serde_json::json!(1)));
    let (status, busy) = told(port, "POST", "/v1/requests", &password, SWITCHOVER).await;
    assert_eq!(status, StatusCode::CONFLICT, "{busy}");
    let (status, _) = told(port, "POST", "/v1/requests", &password, r#"{"by":"ann"}"#).await;
    assert!(status.is_client_error(), "{status}");

    let (_, body) = told(port, "GET", "/v1/requests/1", &password, "").await;
    assert_eq!(body, serde_json::json!({ "outcome": null }));
    let outcome = Outcome::RolledBack { why: "no third instance".to_owned() };
    store.answer(RequestNumber(1), outcome).await.unwrap();
    let (status, body) = told(port, "GET", "/v1/requests/1", &password, "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["outcome"], serde_json::json!({"rolled_back": {"why": "no third instance"}}));
    let (_, body) = told(port, "DELETE", "/v1/requests/1", &password, "").await;
    assert_eq!(body["outcome"]["rolled_back"]["why"], "no third instance", "it has one already");
    told(port, "POST", "/v1/requests", &password, SWITCHOVER).await;
    let (_, body) = told(port, "DELETE", "/v1/requests/2", &password, "").await;
    assert!(body["outcome"]["refused"]["why"].as_str().unwrap().contains("withdrawn"), "{body}");
    let (status, _) = told(port, "GET", "/v1/requests/7", &password, "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_first_freeze_stays_until_it_is_taken_back() {
    let (folder, desk, admission) = desk();
    let (store, password) = (desk.store.clone(), superuser_password(&admission));
    let port = serve_desk("pg-1", watch::channel(None).1, (desk, admission), folder).await;
    let next = Record {
        cluster: "main".to_owned(),
        system_identifier: SystemIdentifier(7),
        generation: Generation(1),
        primary: id("pg-1"),
        sync: Some(id("pg-2")),
        asyncs: vec![id("pg-3")],
        deposed: Vec::new(),
        began_at: Position { timeline: TimelineId(1), lsn: dugong_topology::Lsn(1) },
        timeline: TimelineId(1),
        frozen: None,
        one_node: false,
        reason: Reason::Bootstrap,
    };
    let first = Declaration { next, at: None, guard: Guard::None, fulfils: None };
    store.declare(first).await.unwrap();
    let freeze = r#"{"by":"ann","why":"new disks"}"#;
    let (status, body) = told(port, "POST", "/v1/freeze", &password, freeze).await;
    assert_eq!((status, &body["before"]), (StatusCode::OK, &serde_json::Value::Null));
    let again = r#"{"by":"bob","why":"a whim"}"#;
    for method in ["POST", "DELETE"] {
        let (status, body) = told(port, method, "/v1/freeze", &password, again).await;
        assert_eq!((status, &body["before"]["by"]), (StatusCode::OK, &"ann".into()), "{method}");
    }
    let (_, body) = told(port, "DELETE", "/v1/freeze", &password, "").await;
    assert_eq!(body["before"], serde_json::Value::Null);

    // The first record, the freeze, and its end.
    let (status, body) = told(port, "GET", "/v1/history?limit=2", "", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body.as_array().unwrap().len(), 2);
    assert_eq!(body[1]["record"]["frozen"]["by"], "ann");
    let (_, body) = told(port, "GET", "/v1/history", "", "").await;
    assert_eq!(body[2]["record"]["primary"], "pg-1");
}
