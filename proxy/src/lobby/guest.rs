//! One client in a lobby: what it says, until it is known whom to call for it, and the call.
//!
//! **Invariant:** not one byte is read that comes after the packet that is being read: whoever goes on
//! finds it where it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::time::Instant;

use crate::config::Mode;
use crate::error::SessionError;
use crate::handshake::{NO, PortTls};
use crate::lobby::call::{Call, Heard};
use crate::lobby::{Around, Stranger};
use crate::relay::engine::{Readiness, Token, Watch};
use crate::relay::session::Session;
use crate::runtime::Shared;
use crate::session::{self, Newcomer};
use crate::wire::startup::{Beginning, FirstPacket};

pub(super) struct Guest {
    /// Its name among the sockets that are watched.
    token: Token,
    client: OwnedFd,
    newcomer: Newcomer,
    stage: Stage,
    /// Whether the socket of its stage is, or was.
    is_watched: bool,
}

/// What a guest waits for.
enum Stage {
    /// Its own words.
    Arriving(Beginning),
    /// A server's.
    Calling(Box<Call>),
}

/// What is to become of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is watched.
    Wait,
    /// It has a server.
    Admit,
    /// The control side goes on.
    Elsewhere,
    /// It has left.
    Gone,
}

impl Guest {
    pub(super) fn new(token: Token, client: OwnedFd, newcomer: Newcomer) -> Self {
        let stage = Stage::Arriving(Beginning::default());
        Self { token, client, newcomer, stage, is_watched: false }
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    /// Does what can be done at once.
    pub(super) fn go_on(&mut self, around: &mut Around<'_>) -> Next {
        let listener = self.newcomer.listener;
        loop {
            match &mut self.stage {
                Stage::Arriving(said) => {
                    let tls = around.shared.port_tls(listener);
                    let heard = match around.shared.config.mode {
                        Mode::Session => hear(&self.client, said, tls, around.buffer),
                        Mode::Tcp => Said::All,
                    };
                    match heard {
                        Said::All => (),
                        Said::Part => return self.watch(Readiness::Readable, around.watch),
                        Said::Other => return Next::Elsewhere,
                        Said::Nothing => return Next::Gone,
                    }
                    match Call::begin(std::mem::take(&mut said.packet), listener, around.shared) {
                        Ok(call) => {
                            self.unwatch(around.watch);
                            self.stage = Stage::Calling(Box::new(call));
                        }
                        Err(packet) => {
                            said.packet = packet;
                            return Next::Elsewhere;
                        }
                    }
                }
                Stage::Calling(call) => {
                    return match call.go_on(around.buffer) {
                        Ok(Heard::Nothing(awaited)) => self.watch(awaited, around.watch),
                        Ok(Heard::Answer) => Next::Admit,
                        Err(error) => {
                            call.fail(&error, listener, around.shared);
                            Next::Elsewhere
                        }
                    };
                }
            }
        }
    }

    /// Whether it may wait on.
    pub(super) fn look(&mut self, now: Instant, shared: &Shared) -> Next {
        let listener = self.newcomer.listener;
        match &self.stage {
            Stage::Arriving(_) => {
                let is_late = now >= self.newcomer.since + shared.config.handshake_timeout;
                if is_late { Next::Elsewhere } else { Next::Wait }
            }
            Stage::Calling(call) => {
                if let Some(error) = departure(&self.client) {
                    session::note_refusal(listener, shared, &error);
                    return Next::Gone;
                }
                if !call.is_right(listener, shared) {
                    return Next::Elsewhere;
                }
                match call.overdue(now, shared) {
                    Some(error) => {
                        call.fail(&error, listener, shared);
                        Next::Elsewhere
                    }
                    None => Next::Wait,
                }
            }
        }
    }

    /// The socket that it waits for.
    fn socket(&self) -> BorrowedFd<'_> {
        match &self.stage {
            Stage::Arriving(_) => self.client.as_fd(),
            Stage::Calling(call) => call.server.as_fd(),
        }
    }

    fn watch(&mut self, awaited: Readiness, watch: &mut dyn Watch) -> Next {
        match watch.watch(self.token, self.socket(), awaited) {
            Ok(()) => {
                self.is_watched = true;
                Next::Wait
            }
            Err(error) => {
                tracing::debug!(%error, "a client cannot be watched");
                Next::Elsewhere
            }
        }
    }

    pub(super) fn unwatch(&mut self, watch: &mut dyn Watch) {
        if std::mem::take(&mut self.is_watched) {
            watch.unwatch(self.token, self.socket());
        }
    }

    /// What it is once its server has answered.
    pub(super) fn into_session(self, shared: &Shared) -> Session {
        let Self { client, newcomer, stage: Stage::Calling(call), .. } = self else {
            unreachable!("only a server that was called answers")
        };
        let Call { server, target, claim, spoken, .. } = *call;
        shared.replicas.served(&target.id);
        Session::new(client, server, spoken, newcomer.into_terms(target, claim, shared))
    }

    pub(super) fn into_stranger(self) -> Stranger {
        let Self { client, mut newcomer, stage, .. } = self;
        let said = match stage {
            Stage::Arriving(said) => said,
            Stage::Calling(call) => {
                newcomer.waits_since = Some(call.since);
                // Whatever it was told before it said this, it is not told again.
                Beginning { packet: call.packet, ..Beginning::default() }
            }
        };
        Stranger { client, said, newcomer }
    }
}

/// What a client has said.
enum Said {
    /// Nothing whole yet.
    Part,
    /// All that is needed to call a server.
    All,
    /// Something else, wrong or right.
    Other,
    /// Nothing, and it closed: as health checks do.
    Nothing,
}

/// Reads what there is of a client's first packet, and answers requests for encryption where there is
/// none.
fn hear(client: &OwnedFd, said: &mut Beginning, tls: PortTls<'_>, buffer: &mut [u8]) -> Said {
    let offers_tls = !matches!(tls, PortTls::Off);
    loop {
        match said.missing() {
            Ok(0) => match said.read() {
                Ok(FirstPacket::Startup) => return Said::All,
                Ok(FirstPacket::TlsRequest) if !offers_tls && !said.asked_tls => {
                    said.asked_tls = true
                }
                Ok(FirstPacket::GssRequest) if !said.asked_gss => said.asked_gss = true,
                Ok(_) | Err(_) => return Said::Other,
            },
            Ok(missing) => {
                match recv(client, &mut buffer[..missing], RecvFlags::DONTWAIT) {
                    Ok((_, 0)) if said.packet.is_empty() => return Said::Nothing,
                    Ok((_, 0)) => return Said::Other,
                    Ok((_, bytes)) => said.packet.extend_from_slice(&buffer[..bytes]),
                    Err(Errno::INTR) => (),
                    Err(Errno::AGAIN) => return Said::Part,
                    Err(_) => return Said::Other,
                }
                continue;
            }
            Err(_) => return Said::Other,
        }
        said.packet.clear();
        // One byte: a socket that does not take it is one whose client has left.
        if send(client, NO, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_err() {
            return Said::Other;
        }
    }
}

/// Why nobody is there any more who waits for a server's word.
fn departure(client: &OwnedFd) -> Option<SessionError> {
    let error = match recv(client, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, 0)) => std::io::ErrorKind::UnexpectedEof.into(),
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => return None,
        Err(error) => error.into(),
    };
    Some(SessionError::Client(error))
}
