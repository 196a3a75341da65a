//! First packets that are none.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::eventually::soon;
use crate::fake_server::{TLS_REQUEST, client_that_sends, expect, rest};
use crate::proxy::Proxy;

/// Nothing here gets as far as a server.
fn proxy() -> Proxy {
    Proxy::start(&["--primary", "127.0.0.1:1", "--handshake-timeout", "300ms"])
}

const GSS_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";

#[tokio::test]
async fn what_is_no_startup_packet_gets_an_error() {
    let proxy = proxy();
    #[rustfmt::skip]
    let cases: [(&str, &[u8], &str); 6] = [
        ("HTTP",            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",   "this is an HTTP request"),
        ("a TLS hello",     b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "TLS is not offered at this port"),
        ("garbage",         b"\xff\xff\xff\xff\xff\xff\xff\xff",    "the first packet claims"),
        ("protocol 2",      b"\0\0\0\x0b\0\x02\0\0me\0",            "protocol 2.0 is not supported"),
        ("no terminator",   b"\0\0\0\x0c\0\x03\0\0user",            "does not end in a zero byte"),
        ("TLS, twice",      &[TLS_REQUEST, TLS_REQUEST].concat(),   "encryption was asked for twice"),
    ];
    for (what, bytes, expected) in cases {
        let mut client = client_that_sends(proxy.write_port, bytes).await;
        let told = rest(&mut client).await;
        assert!(told.contains("|VFATAL|C08P01|"), "{what}: {told}");
        assert!(told.contains(expected), "{what}: {told}");
    }
    let refused = "dugong_proxy_rejected_total{listener=\"write\",reason=\"no_startup\"}";
    assert_eq!(proxy.metric(refused).await, Some(6.0));
}

#[tokio::test]
async fn silence_is_cut_off_wherever_it_begins() {
    let proxy = proxy();
    #[rustfmt::skip]
    let cases: [(&str, &[u8]); 4] = [
        ("at once",                 b""),
        ("in the length",           b"\0\0"),
        ("in the packet",           b"\0\0\x27\x10\0\x03"),
        ("after a declined TLS",    TLS_REQUEST),
    ];
    for (what, bytes) in cases {
        let mut client = client_that_sends(proxy.write_port, bytes).await;
        let told = rest(&mut client).await;
        assert!(told.contains("|C08P01|Mno startup packet came within 300ms|"), "{what}: {told}");
    }
}

#[tokio::test]
async fn who_says_a_byte_now_and_then_is_cut_off_as_well() {
    let proxy = proxy();
    let mut client = client_that_sends(proxy.write_port, b"\0\0\x27\x10\0\x03\0\0").await;
    let (mut hearing, mut saying) = client.split();
    let mut told = Vec::new();
    let dripping = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            // Once it is cut off nobody takes more; what it was told is what counts.
            let _ = saying.write_all(b"x").await;
        }
    };
    tokio::select! {
        heard = soon("it is told", hearing.read_to_end(&mut told)) => drop(heard),
        () = dripping => unreachable!("it drips for ever"),
    }
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("no startup packet came within 300ms"), "{told}");
}

#[tokio::test]
async fn encryption_is_declined_and_the_client_may_go_on() {
    let proxy = proxy();
    let mut client = client_that_sends(proxy.write_port, GSS_REQUEST).await;
    expect(&mut client, b"N").await;
    client.write_all(TLS_REQUEST).await.unwrap();
    expect(&mut client, b"N").await;
    client.write_all(b"\0\0\0\x09\0\x02\0\0\0").await.unwrap();
    assert!(rest(&mut client).await.contains("protocol 2.0"));
}

#[tokio::test]
async fn a_health_check_that_only_connects_is_no_event() {
    let proxy = proxy();
    let mut client = client_that_sends(proxy.write_port, b"").await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    let refused = "dugong_proxy_rejected_total{listener=\"write\",reason=\"no_startup\"}";
    assert_eq!(proxy.metric(refused).await, None);
}
