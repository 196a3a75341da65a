//! Services and their watchers, and clients that wait.

use serde_json::Value;
use tokio::time::timeout;

use super::*;

/// Nobody waits longer for what comes at once.
const SOON: Duration = Duration::from_secs(20);

/// The cluster after pg-2 took over from pg-1.
fn after_takeover(revision: u64) -> Topology {
    Topology {
        generation: Generation(4),
        primary: Some(member("pg-2", None)),
        sync: Some(member("pg-3", Some(0))),
        asyncs: Vec::new(),
        deposed: vec![Member { healthy: false, ..member("pg-1", None) }],
        ..cluster(revision)
    }
}

/// A new topology after the one that is published.
fn publish(sender: &watch::Sender<Option<Arc<Published>>>, topology: Topology) {
    let before = sender.borrow().clone();
    let published = Published::new(topology, before.as_deref()).unwrap();
    sender.send_replace(Some(Arc::new(published)));
}

#[tokio::test]
async fn services_are_listed_and_led() {
    let (sender, topologies) = watch::channel(published(cluster(1)));
    let port = serve("pg-1", topologies).await;
    let (_, whole) = told(port, "GET", "/v1/services", "", "").await;
    assert_eq!((&whole["generation"], &whole["revision"]), (&3.into(), &1.into()));
    let (status, replicas) = told(port, "GET", "/v1/services/replica/instances", "", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(replicas, whole["services"]["replica"]);
    assert_eq!(
        replicas["instances"][0],
        serde_json::json!({"id": "pg-2", "address": "127.0.0.1:5000", "role": "sync",
                           "healthy": true, "state": "running"})
    );
    let (status, led) = told(port, "GET", "/v1/services/postgres/leader", "", "").await;
    assert_eq!((status, &led["leader"]["id"]), (StatusCode::OK, &"pg-1".into()));

    publish(&sender, Topology { phase: Phase::NoPrimary, ..cluster(2) });
    let (status, led) = told(port, "GET", "/v1/services/primary/leader", "", "").await;
    assert_eq!((status, &led["leader"]), (StatusCode::SERVICE_UNAVAILABLE, &Value::Null));
    for path in ["instances", "leader", "watch"] {
        let path = format!("/v1/services/secondary/{path}");
        let (status, body) = told(port, "GET", &path, "", "").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        let words = "there are postgres, primary, sync, replica, controller";
        assert!(body["error"].as_str().unwrap().contains(words), "{body}");
    }
}

/// The kinds of events with their instances, until one satisfies `last`.
async fn hear(answer: &mut Response<Incoming>, last: &str) -> Vec<String> {
    let mut heard = Vec::new();
    while heard.last().is_none_or(|event| event != last) {
        let frame = timeout(SOON, answer.body_mut().frame()).await.unwrap().unwrap().unwrap();
        let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
        for data in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let event: Value = serde_json::from_str(data).unwrap();
            let id = event["instance"]["id"].as_str().unwrap_or("-").to_owned();
            heard.push(format!("{} {id}", event["kind"].as_str().unwrap()));
        }
    }
    heard
}

#[tokio::test]
async fn watchers_hear_who_is_there_and_then_each_change() {
    let (sender, topologies) = watch::channel(None);
    let port = serve("pg-1", topologies).await;
    let mut replicas = ask(port, "GET", "/v1/services/replica/watch").await;
    assert_eq!(replicas.headers()["content-type"], stream::CONTENT_TYPE);
    let mut leaders = accept_events(port, "/v1/services/primary/leader").await;
    let mut listed = accept_events(port, "/v1/services/primary/instances").await;
    publish(&sender, cluster(1));
    let opening = ["up pg-2", "up pg-3", "leader pg-2", "current -"];
    assert_eq!(hear(&mut replicas, "current -").await, opening);
    assert_eq!(hear(&mut leaders, "current -").await, ["leader pg-1", "current -"]);
    let opening = ["up pg-1", "leader pg-1", "current -"];
    assert_eq!(hear(&mut listed, "current -").await, opening);

    publish(&sender, cluster(2)); // Nothing that matters to anybody.
    publish(&sender, after_takeover(3));
    let change = ["down pg-2", "update pg-3", "leader pg-3"];
    assert_eq!(hear(&mut replicas, "leader pg-3").await, change);
    assert_eq!(hear(&mut leaders, "leader pg-2").await, ["leader pg-2"]);
    let change = ["down pg-1", "up pg-2", "leader pg-2"];
    assert_eq!(hear(&mut listed, "leader pg-2").await, change);
}

async fn accept_events(port: u16, path: &str) -> Response<Incoming> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().uri(path).header("host", "controller");
    let request = request.header("accept", stream::CONTENT_TYPE);
    requests.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap()
}

#[tokio::test]
async fn who_waits_is_answered_by_what_is_newer() {
    let (sender, topologies) = watch::channel(published(cluster(5)));
    let port = serve("pg-1", topologies).await;
    #[rustfmt::skip]
    let cases = [
        // path                                        status, version
        ("/v1/topology",                               200, "\"3.5\""),
        ("/v1/topology?wait=3.4",                      200, "\"3.5\""),
        ("/v1/topology?wait=2.900",                    200, "\"3.5\""),
        ("/v1/topology?wait=3.5&timeout=1",            304, ""),
        ("/v1/topology?wait=now",                      400, ""),
        ("/v1/topology?wait=3.5&timeout=61s",          400, ""),
        ("/v1/services?wait=3.4",                      200, "\"3.5\""),
        ("/v1/services?wait=3.5&timeout=1s",           304, ""),
        ("/v1/services/sync/instances?wait=3.4",       200, "\"3.5\""),
        ("/v1/services/sync/leader?wait=4.0&timeout=1", 304, ""),
    ];
    for (path, status, version) in cases {
        let answer = ask(port, "GET", path).await;
        assert_eq!(answer.status().as_u16(), status, "{path}");
        let etag = answer.headers().get("etag").map(|value| value.to_str().unwrap());
        assert_eq!(etag.unwrap_or_default(), version, "{path}");
    }
    let wait = |path: &'static str| {
        tokio::spawn(timeout(SOON, async move { told(port, "GET", path, "", "").await }))
    };
    let paths = ["/v1/topology?wait=3.5", "/v1/services?wait=3.5"];
    let [topology, services] = paths.map(wait);
    let vacancy = wait("/v1/services/primary/leader?wait=3.5");
    publish(&sender, cluster(6)); // Newer, but the same services.
    publish(&sender, Topology { phase: Phase::NoPrimary, ..cluster(7) });
    let (status, topology) = topology.await.unwrap().unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(topology["revision"].as_u64().unwrap() > 5, "{topology}");
    let (_, services) = services.await.unwrap().unwrap();
    assert_eq!(services["revision"], 7, "services changed with it");
    let (status, vacancy) = vacancy.await.unwrap().unwrap();
    assert_eq!((status, &vacancy["leader"]), (StatusCode::OK, &Value::Null));
}

#[tokio::test]
async fn nobody_waits_in_vain_for_a_store_that_was_never_read() {
    let (_sender, topologies) = watch::channel(None);
    let port = serve("pg-1", topologies).await;
    for path in ["/v1/services", "/v1/services/sync/leader", "/v1/topology?wait=1.1&timeout=1"] {
        let (status, body) = told(port, "GET", path, "", "").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(body["error"].as_str().unwrap().contains("not read yet"), "{body}");
    }
}
