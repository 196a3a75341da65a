//! A client of PostgreSQL's protocol that is small enough to cost next to nothing.
//!
//! It blocks, logs in where everybody is trusted, and sends simple queries. Bodies are counted,
//! not looked at.
//!
//! Source: PostgreSQL's manual, "Frontend/Backend Protocol", "Message Formats".

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::certificate::NAME;

/// The longest that anything may take to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// Protocol 3.0, for the user and the database `postgres`.
pub(crate) const STARTUP: &[u8] = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";

/// What bytes come by and go by.
pub(crate) trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

/// Asks for encryption.
const TLS_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";

/// One connection, logged in.
pub(crate) struct Client {
    socket: Box<dyn Wire>,
    buffer: Vec<u8>,
    /// The part of the buffer that was read and not looked at.
    from: usize,
    to: usize,
}

/// One message, its body passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    /// With the header.
    pub(crate) bytes: u64,
}

impl Client {
    /// Connects and logs in.
    pub(crate) fn connect(port: u16) -> io::Result<Self> {
        Self::log_in(Box::new(connection(port)?))
    }

    /// Connects, encrypts, and logs in.
    pub(crate) fn connect_encrypted(port: u16, tls: &Arc<ClientConfig>) -> io::Result<Self> {
        let mut socket = connection(port)?;
        socket.write_all(TLS_REQUEST)?;
        let mut answer = [0];
        socket.read_exact(&mut answer)?;
        if answer != *b"S" {
            return Err(io::Error::other("no TLS is offered"));
        }
        let name = NAME.try_into().map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
        Self::log_in(Box::new(StreamOwned::new(session, socket)))
    }

    fn log_in(socket: Box<dyn Wire>) -> io::Result<Self> {
        let mut client = Self { socket, buffer: vec![0; 64 << 10], from: 0, to: 0 };
        client.socket.write_all(STARTUP)?;
        client.until_ready()?;
        Ok(client)
    }

    /// Only the connection, for one that says nothing any more.
    pub(crate) fn into_wire(self) -> Box<dyn Wire> {
        self.socket
    }

    /// Sends a query and passes over its answer; says how many bytes that had.
    pub(crate) fn query(&mut self, sql: &str) -> io::Result<u64> {
        self.send(b'Q', &[sql.as_bytes(), b"\0"].concat())?;
        self.until_ready()
    }

    /// Sends one message.
    pub(crate) fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        self.send_each(kind, body, 1)
    }

    /// Sends one message several times at once.
    pub(crate) fn send_each(&mut self, kind: u8, body: &[u8], times: usize) -> io::Result<()> {
        let length = u32::try_from(body.len() + 4).map_err(io::Error::other)?;
        let message = [&[kind], &length.to_be_bytes()[..], body].concat();
        self.socket.write_all(&message.repeat(times))
    }

    /// Passes over everything up to ReadyForQuery; an error of the server is one here.
    pub(crate) fn until_ready(&mut self) -> io::Result<u64> {
        let mut bytes = 0;
        loop {
            let message = self.next()?;
            bytes += message.bytes;
            match message.kind {
                b'Z' => return Ok(bytes),
                b'E' => return Err(io::Error::other("the server answers with an error")),
                _ => (),
            }
        }
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> io::Result<Message> {
        while self.to - self.from < 5 {
            self.read()?;
        }
        let header = &self.buffer[self.from..self.from + 5];
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let message = Message { kind: header[0], bytes: u64::from(length) + 1 };
        let mut rest = message.bytes;
        loop {
            let there = (self.to - self.from) as u64;
            let step = there.min(rest);
            self.from += usize::try_from(step).map_err(io::Error::other)?;
            rest -= step;
            if rest == 0 {
                return Ok(message);
            }
            self.read()?;
        }
    }

    /// More bytes, behind those that are there.
    fn read(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to - self.from);
        loop {
            match self.socket.read(&mut self.buffer[self.to..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    self.to += length;
                    return Ok(());
                }
                // A read that has a time limit is broken off by any signal (signal(7)), and by a ring of
                // io_uring that is being taken down.
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
    }
}

fn connection(port: u16) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.set_write_timeout(Some(LIMIT))?;
    Ok(socket)
}

/// Waits until a server, or what leads to one, answers a query.
pub(crate) fn until_it_answers(
    port: u16,
    mut still_runs: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        still_runs()?;
        match Client::connect(port).and_then(|mut client| client.query("select 1")) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context(format!("nobody answers at port {port}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what it has to say one byte a read, each after an interruption.
    struct Stutter {
        words: &'static [u8],
        interrupts: bool,
    }

    impl Read for Stutter {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.interrupts = !self.interrupts;
            if self.interrupts {
                return Err(ErrorKind::Interrupted.into());
            }
            let length = self.words.len().min(1);
            self.words.read(&mut buffer[..length])
        }
    }

    impl Write for Stutter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_interruption_is_no_error() {
        let words = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
        let mut client =
            Client::log_in(Box::new(Stutter { words, interrupts: false })).expect("it is let in");
        let left = client.query("select 1").expect_err("nothing more is said");
        assert_eq!(left.kind(), ErrorKind::UnexpectedEof);
    }
}
