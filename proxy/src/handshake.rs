//! From accept to the first packet that says what the client wants, encrypted where it shall be.
//!
//! Exactly the bytes of each packet are read and none of what follows, so that whoever comes next,
//! TLS or the relay, finds the rest where it is. Nothing that came unencrypted is ever taken for
//! something that came encrypted. Memory grows with what arrives, not with what a length claims.
//!
//! **Invariant:** bounded in time (one limit for all of it) and in bytes, whatever the client sends.
//!
//! Source: PostgreSQL manual, "SSL Session Encryption"; `ProcessSSLStartup` and
//! `ProcessStartupPacket` in `backend_startup.c`.

use std::future::Future;
use std::io;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::error::SessionError;
use crate::shutdown::{Shutdown, Stage};
use crate::stream::Stream;
use crate::tls::ALPN;
use crate::tls::clients::{Front, Hello};
use crate::wire::message::CancelKey;
use crate::wire::startup::{Beginning, FirstPacket, LENGTH_BYTES, StartupError};

/// What a client wants.
#[derive(Debug)]
pub enum Opening {
    /// A session; with the packet as it came, for the server.
    Startup(Vec<u8>),
    /// A query of another connection cancelled; with the packet as it came.
    Cancel(CancelKey, Vec<u8>),
    /// Nothing: it closed before it said anything, as health checks do.
    Nothing,
}

/// What a port does about encryption, and with what.
#[derive(Clone, Copy, Debug)]
pub enum PortTls<'a> {
    /// None is offered.
    Off,
    /// As the client wants it.
    Offered(&'a Front),
    /// It is needed. Not for cancel requests: libpq before 17 sends them without.
    Required(&'a Front),
}

/// Until when a client must have said what it wants.
#[derive(Clone, Copy, Debug)]
pub struct Patience<'a> {
    /// Since it was accepted.
    pub limit: Duration,
    pub shutdown: &'a Shutdown,
}

/// A client that gets no further.
#[derive(Debug)]
pub struct Refused {
    /// None: it cannot be told, in the middle of a handshake that only TLS has words for.
    pub client: Option<Stream>,
    pub error: SessionError,
}

/// How a client began.
#[derive(Debug)]
pub enum Begun {
    /// In clear, and says what it wants.
    InClear(TcpStream, Opening),
    /// It speaks TLS now: [`encrypt`] goes on.
    Encrypts(Asked),
}

/// A client in the middle of its handshake.
#[derive(Debug)]
pub struct Asked {
    pub client: TcpStream,
    hello: Hello,
    until: Instant,
}

impl Asked {
    /// The same, of the runtime of whoever calls.
    ///
    /// # Errors
    ///
    /// The client is gone.
    pub fn rehomed(self) -> io::Result<Self> {
        Ok(Self { client: TcpStream::from_std(self.client.into_std()?)?, ..self })
    }
}

/// What a client leads to that is not encrypted.
enum Next {
    Opened(Opening),
    Encrypt(Hello),
}

/// What came first.
enum First {
    Nothing,
    /// A whole one.
    Packet,
    /// No packet: the beginning of a ClientHello.
    Hello([u8; LENGTH_BYTES]),
}

const YES: &[u8] = b"S";

/// What a client is told who asks for encryption where there is none.
pub const NO: &[u8] = b"N";

/// Learns what a client wants that was accepted at `since`, or that it wants to say so encrypted.
///
/// # Errors
///
/// Too slow, no startup packet, not encrypted as it shall be, gone, or the proxy stops.
pub async fn begin(
    mut client: TcpStream,
    said: Beginning,
    since: Instant,
    tls: PortTls<'_>,
    patience: Patience<'_>,
) -> Result<Begun, Refused> {
    let until = since + patience.limit;
    match patience.bound(until, plain(&mut client, said, tls)).await {
        Ok(Next::Encrypt(hello)) => Ok(Begun::Encrypts(Asked { client, hello, until })),
        Ok(Next::Opened(opening)) => Ok(Begun::InClear(client, opening)),
        Err(error) => Err(Refused { client: Some(Stream::Plain(client)), error }),
    }
}

/// Encrypts, and learns what a client wants.
///
/// # Errors
///
/// Those of [`begin`], and no TLS that both sides know.
pub async fn encrypt(
    asked: Asked,
    front: &Front,
    patience: Patience<'_>,
) -> Result<(Stream, Opening), Refused> {
    let Asked { client, hello, until } = asked;
    let greeting = async { front.accept(client, hello).await.map_err(SessionError::Tls) };
    let mut client = match patience.bound(until, greeting).await {
        Ok(client) => client,
        Err(error) => return Err(Refused { client: None, error }),
    };
    match patience.bound(until, encrypted(&mut client, hello)).await {
        Ok(opening) => Ok((client, opening)),
        Err(error) => Err(Refused { client: Some(client), error }),
    }
}

impl Patience<'_> {
    /// Waits, but not for ever. What loses is dropped, with what it had read.
    async fn bound<T>(
        &self,
        until: Instant,
        what: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        tokio::select! {
            biased;
            () = self.shutdown.reached(Stage::Draining) => Err(SessionError::ShuttingDown),
            result = timeout_at(until, what) => match result {
                Ok(result) => result,
                Err(_) => Err(SessionError::HandshakeTimeout { limit: self.limit }),
            },
        }
    }
}

/// What a client says before anything is encrypted.
async fn plain(
    client: &mut TcpStream,
    mut said: Beginning,
    tls: PortTls<'_>,
) -> Result<Next, SessionError> {
    let offered = !matches!(tls, PortTls::Off);
    loop {
        match first(client, &mut said).await? {
            First::Nothing => return Ok(Next::Opened(Opening::Nothing)),
            First::Packet => (),
            First::Hello(begun) if offered && !said.asked_gss => {
                return Ok(Next::Encrypt(Hello::Direct(begun)));
            }
            First::Hello(_) => return Err(SessionError::NoStartup(StartupError::DirectTls)),
        }
        let what = said.read().map_err(SessionError::NoStartup)?;
        let packet = std::mem::take(&mut said.packet);
        let asked = match what {
            FirstPacket::Startup if matches!(tls, PortTls::Required(_)) => {
                return Err(SessionError::TlsRequired);
            }
            FirstPacket::Startup => return Ok(Next::Opened(Opening::Startup(packet))),
            FirstPacket::Cancel(key) => return Ok(Next::Opened(Opening::Cancel(key, packet))),
            FirstPacket::TlsRequest => &mut said.asked_tls,
            FirstPacket::GssRequest => &mut said.asked_gss,
        };
        if std::mem::replace(asked, true) {
            return Err(SessionError::NoStartup(StartupError::AskedTwice));
        }
        if offered && said.asked_tls {
            // TLS would refuse it as well, in words that nobody understands. The system is asked: the
            // runtime knows nothing yet of a socket that it has just got.
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            if matches!(recv(&*client, &mut [0; 1], flags), Ok((_, 1..))) {
                return Err(SessionError::NoStartup(StartupError::Unencrypted));
            }
            say(client, YES).await?;
            return Ok(Next::Encrypt(Hello::Asked));
        }
        say(client, NO).await?;
    }
}

/// What a client says once all of it is encrypted.
async fn encrypted(client: &mut Stream, hello: Hello) -> Result<Opening, SessionError> {
    // Asked first, it may be of a time that knew no application protocols.
    if hello != Hello::Asked && !client.speaks(ALPN) {
        return Err(SessionError::NoStartup(StartupError::NoAlpn));
    }
    let mut said = Beginning::default();
    match first(client, &mut said).await? {
        First::Nothing => return Ok(Opening::Nothing),
        First::Packet => (),
        First::Hello(_) => return Err(SessionError::NoStartup(StartupError::AskedTwice)),
    }
    match said.read().map_err(SessionError::NoStartup)? {
        FirstPacket::Startup => Ok(Opening::Startup(said.packet)),
        FirstPacket::Cancel(key) => Ok(Opening::Cancel(key, said.packet)),
        FirstPacket::TlsRequest | FirstPacket::GssRequest => {
            Err(SessionError::NoStartup(StartupError::AskedTwice))
        }
    }
}

async fn say(client: &mut TcpStream, word: &[u8]) -> Result<(), SessionError> {
    client.write_all(word).await.map_err(SessionError::Client)
}

/// The rest of one packet, or what there is instead.
async fn first(
    client: &mut (impl AsyncRead + Unpin),
    said: &mut Beginning,
) -> Result<First, SessionError> {
    loop {
        let missing = match said.missing() {
            Ok(0) => return Ok(First::Packet),
            Ok(missing) => missing,
            Err(error) => match (error, said.packet.first_chunk()) {
                (StartupError::DirectTls, Some(begun)) => return Ok(First::Hello(*begun)),
                (error, _) => return Err(SessionError::NoStartup(error)),
            },
        };
        let mut more = (&mut *client).take(missing as u64);
        let read = more.read_to_end(&mut said.packet).await.map_err(SessionError::Client)?;
        if read < missing {
            if said.packet.is_empty() {
                return Ok(First::Nothing);
            }
            return Err(SessionError::NoStartup(StartupError::CutShort));
        }
    }
}
