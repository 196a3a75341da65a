//! A server that says what a test wants it to say, byte for byte; and the client's side of that.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::eventually::soon;

/// AuthenticationOk, BackendKeyData, ReadyForQuery.
pub(crate) const WELCOME: &[u8] =
    b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07\x01\x02\x03\x04Z\0\0\0\x05I";

/// A startup packet of protocol 3.0.
pub(crate) const STARTUP: &[u8] = b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0";

/// SSLRequest.
pub(crate) const TLS_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";

pub(crate) struct FakeServer {
    pub(crate) port: u16,
    socket: TcpListener,
}

impl FakeServer {
    pub(crate) async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { port: socket.local_addr().unwrap().port(), socket }
    }

    /// Takes the next connection; returns it once its first packet has come, with that packet.
    pub(crate) async fn accept(&self) -> (TcpStream, Vec<u8>) {
        let accepting = async {
            let (mut stream, _) = self.socket.accept().await.unwrap();
            let length = stream.read_u32().await.unwrap();
            let mut packet = length.to_be_bytes().to_vec();
            packet.resize(usize::try_from(length).unwrap(), 0);
            stream.read_exact(&mut packet[4..]).await.unwrap();
            (stream, packet)
        };
        soon("a connection to the server", accepting).await
    }

    /// A client of a proxy's port, led here and welcomed: its end, and the server's.
    pub(crate) async fn welcome(&self, port: u16) -> (TcpStream, TcpStream) {
        let mut client = client_that_sends(port, STARTUP).await;
        let (mut served, _) = self.accept().await;
        served.write_all(WELCOME).await.unwrap();
        expect(&mut client, WELCOME).await;
        (client, served)
    }
}

/// A raw client that has sent `bytes`.
pub(crate) async fn client_that_sends(port: u16, bytes: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    client.write_all(bytes).await.unwrap();
    client
}

/// Reads exactly as many bytes as expected, and compares.
pub(crate) async fn expect(client: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    soon("bytes for the client", client.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(bytes, expected);
}

/// Everything up to the end of the connection, as text that a test can search.
pub(crate) async fn rest(client: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    soon("the end of the connection", client.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8_lossy(&bytes).replace('\0', "|")
}

/// An ErrorResponse of severity FATAL.
pub(crate) fn fatal(code: &str, message: &str) -> Vec<u8> {
    let body = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
    let mut bytes = vec![b'E'];
    bytes.extend((u32::try_from(body.len()).unwrap() + 4).to_be_bytes());
    bytes.extend(body.as_bytes());
    bytes
}
