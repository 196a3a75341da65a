//! A server that knows just enough of the protocol to be led to: it lets everybody in and answers
//! every query with nothing, or `rows N` with as many rows of 100 bytes.
//!
//! It stands in for PostgreSQL where there are more connections than a PostgreSQL on this machine
//! could have processes. Runs as a process of its own, so that its memory and time are not a
//! contender's.
//!
//! Source: PostgreSQL's manual, "Frontend/Backend Protocol", "Message Formats".

use std::io;
use std::net::SocketAddr;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// The codes of the startup packet that ask for encryption.
const ENCRYPTION: [u32; 2] = [80_877_103, 80_877_104];

/// A message that is longer than this is none that a client of ours sends.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Rows of one answer at most.
const ROWS_MAX: usize = 100_000;

/// Connections that may wait to be accepted, as far as the kernel lets them: a crowd comes at once.
const BACKLOG: u32 = 65_535;

/// What the process is told.
#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    listen: SocketAddr,
}

/// Answers until the process is ended.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(options.listen)?;
    let listener = socket.listen(BACKLOG)?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A client that goes away, or says something strange, is left.
            let _ = serve(client).await;
        });
    }
}

async fn serve(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    while ENCRYPTION.contains(&startup(&mut client).await?) {
        client.write_all(b"N").await?;
    }
    client.write_all(&greeting()).await?;
    loop {
        let kind = client.read_u8().await?;
        let body = body(&mut client).await?;
        match kind {
            b'Q' if !body.is_empty() => {
                client.write_all(&answer(&body)).await?;
            }
            b'X' => return Ok(()),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Up to ReadyForQuery.
fn answer(query: &[u8]) -> Vec<u8> {
    let words = String::from_utf8_lossy(query);
    let rows =
        words.trim_end_matches('\0').strip_prefix("rows ").and_then(|rows| rows.parse().ok());
    // One column of 89 bytes: with headers a message of 100.
    let row = [&[0, 1, 0, 0, 0, 89][..], &[b'x'; 89]].concat();
    let mut answer = message(b'D', &row).repeat(rows.unwrap_or(0_usize).min(ROWS_MAX));
    answer.extend(message(b'I', b""));
    answer.extend(message(b'Z', b"I"));
    answer
}

/// The code that a startup packet begins with.
async fn startup(client: &mut TcpStream) -> io::Result<u32> {
    let body = body(client).await?;
    let code = body.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    Ok(u32::from_be_bytes(*code))
}

async fn body(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::try_from(client.read_u32().await?).map_err(io::Error::other)?;
    if !(4..MESSAGE_BYTES_MAX).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length - 4];
    client.read_exact(&mut body).await?;
    Ok(body)
}

/// AuthenticationOk, what drivers and poolers want to know, a cancel key, ReadyForQuery.
fn greeting() -> Vec<u8> {
    let mut greeting = message(b'R', &0_u32.to_be_bytes());
    for (name, value) in [
        ("server_version", "15.0"),
        ("client_encoding", "UTF8"),
        ("standard_conforming_strings", "on"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
    ] {
        greeting.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
    }
    greeting.extend(message(b'K', &[0, 0, 0, 1, 0, 0, 0, 1]));
    greeting.extend(message(b'Z', b"I"));
    greeting
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[kind], &length.to_be_bytes()[..], body].concat()
}
