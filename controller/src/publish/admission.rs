//! Who may do what over HTTP.
//!
//! | who | may |
//! | --- | --- |
//! | anybody | ask for the health checks of load balancers |
//! | anybody, or who has the token for reading where there is one | read |
//! | who has the token for changes, or a certificate of `client_ca` | read and change |
//! | who is on this machine and has the superuser's password; both of them while it is exchanged | read and change |
//!
//! **Invariant:** what must not be heard by others is taken from this machine or over TLS only.
//!
//! **Invariant:** tokens are compared in a time that tells nothing about them, and never shown.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use super::http::error;
use crate::credentials::{Credentials, Kind, Password};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// Over TLS.
    pub secure: bool,
    /// With a certificate of `client_ca`.
    pub certified: bool,
}

/// What is asked of whoever asks.
#[derive(Clone, Debug)]
pub struct Admission {
    /// For the superuser's password, on this machine.
    pub credentials: watch::Receiver<Arc<Credentials>>,
    pub token: Option<Password>,
    pub read_token: Option<Password>,
    /// Whether certificates of clients are looked at.
    pub certificates: bool,
}

/// Why somebody is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A better token would do.
    Unauthorized(&'static str),
    /// No token would.
    Forbidden(&'static str),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A health check, which says no more than whether the instance has a role.
    Check,
    Read,
    Change,
}

impl Wish {
    pub(super) fn of(method: &Method, path: &str) -> Self {
        const CHECKS: [&str; 12] = [
            "/liveness",
            "/readiness",
            "/health",
            "/primary",
            "/read-write",
            "/leader",
            "/sync",
            "/synchronous",
            "/async",
            "/asynchronous",
            "/read-only",
            "/replica",
        ];
        // What became of a request is for whoever could have asked for it.
        // Settings may be secrets.
        let asks = ["/v1/requests", "/v1/freeze", "/v1/settings", "/v1/credentials"];
        let asks = asks.iter().any(|prefix| path.starts_with(prefix));
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        match (asks || !reads, CHECKS.contains(&path)) {
            (true, _) => Self::Change,
            (false, true) => Self::Check,
            (false, false) => Self::Read,
        }
    }
}

impl Admission {
    pub(super) fn admits(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        wish: Wish,
    ) -> Result<(), Refusal> {
        let here = peer.address.ip().is_loopback();
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let is = |token: &Option<Password>| token.as_ref().is_some_and(|it| is_same(given, it));
        let heard = peer.secure || here;
        let changes =
            peer.certified || heard && is(&self.token) || here && self.is_superuser(given);
        match wish {
            Wish::Check => Ok(()),
            Wish::Change if changes => Ok(()),
            Wish::Change if !heard => Err(Refusal::Forbidden(
                "changes are taken over TLS, or from this machine: set tls_cert and tls_key in \
                 [http] of the controller",
            )),
            Wish::Change if here => Err(Refusal::Unauthorized(
                "send the superuser's password of the cluster, or the token of [http] token_file, \
                 as a bearer token",
            )),
            Wish::Change if self.token.is_none() && !self.certificates => Err(Refusal::Forbidden(
                "nobody on another machine may change anything: set token_file or client_ca in \
                 [http] of the controller",
            )),
            Wish::Change => Err(Refusal::Unauthorized(
                "send the token of [http] token_file as a bearer token, or use a certificate of \
                 client_ca",
            )),
            Wish::Read if self.read_token.is_none() || changes => Ok(()),
            Wish::Read if heard && is(&self.read_token) => Ok(()),
            Wish::Read if heard => Err(Refusal::Unauthorized(
                "send the token of [http] read_token_file as a bearer token",
            )),
            Wish::Read => Err(Refusal::Forbidden(
                "the token for reading is taken over TLS, or from this machine: set tls_cert and \
                 tls_key in [http] of the controller",
            )),
        }
    }
}

impl Admission {
    fn is_superuser(&self, given: &str) -> bool {
        let known = self.credentials.borrow().let_in(Kind::Superuser);
        known.iter().any(|login| is_same(given, &login.password))
    }
}

/// Takes as long for a wrong token as for the right one of that length.
fn is_same(given: &str, expected: &Password) -> bool {
    given.as_bytes().ct_eq(expected.expose().as_bytes()).into()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Unauthorized(why) => {
                let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"dugong\"")];
                (challenge, error(StatusCode::UNAUTHORIZED, why)).into_response()
            }
            Self::Forbidden(why) => error(StatusCode::FORBIDDEN, why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str, secure: bool, certified: bool) -> Peer {
        Peer { address: address.parse().unwrap(), secure, certified }
    }

    #[test]
    fn who_may_do_what() {
        let password = |text: &str| Some(Password::of(text.to_owned()));
        let mut credentials = Credentials::generate().unwrap();
        credentials.superuser.password = Password::of("super".to_owned());
        let admission = Admission {
            credentials: watch::channel(Arc::new(credentials)).1,
            token: password("change"),
            read_token: password("read"),
            certificates: true,
        };
        let bare =
            Admission { token: None, read_token: None, certificates: false, ..admission.clone() };
        let here = || peer("127.0.0.1:9", false, false);
        let plain = || peer("10.0.0.9:9", false, false);
        let over_tls = || peer("10.0.0.9:9", true, false);
        let known = || peer("10.0.0.9:9", true, true);
        use Wish::{Change, Check, Read};
        #[rustfmt::skip]
        let cases = [
            // who         with       wants   where tokens are set   where none is
            (here(),       "",        Check,  None,                  None),
            (plain(),      "",        Check,  None,                  None),
            (here(),       "",        Read,   Some(401),             None),
            (here(),       "read",    Read,   None,                  None),
            (here(),       "super",   Read,   None,                  None),
            (plain(),      "read",    Read,   Some(403),             None),
            (over_tls(),   "",        Read,   Some(401),             None),
            (over_tls(),   "read",    Read,   None,                  None),
            (over_tls(),   "change",  Read,   None,                  None),
            (over_tls(),   "super",   Read,   Some(401),             None),
            (known(),      "",        Read,   None,                  None),
            (here(),       "",        Change, Some(401),             Some(401)),
            (here(),       "super",   Change, None,                  None),
            (here(),       "change",  Change, None,                  Some(401)),
            (here(),       "read",    Change, Some(401),             Some(401)),
            (plain(),      "change",  Change, Some(403),             Some(403)),
            (plain(),      "super",   Change, Some(403),             Some(403)),
            (over_tls(),   "change",  Change, None,                  Some(403)),
            (over_tls(),   "changes", Change, Some(401),             Some(403)),
            (over_tls(),   "super",   Change, Some(401),             Some(403)),
            (over_tls(),   "",        Change, Some(401),             Some(403)),
            (known(),      "",        Change, None,                  None),
        ];
        let status = |refusal: Result<(), Refusal>| match refusal {
            Ok(()) => None,
            Err(refusal) => Some(refusal.into_response().status().as_u16()),
        };
        for (peer, given, wish, with, without) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, format!("Bearer {given}").parse().unwrap());
            let case = format!("{peer:?} {given:?} {wish:?}");
            assert_eq!(status(admission.admits(&peer, &headers, wish)), with, "{case}");
            // Without client_ca no certificate is looked at.
            if !peer.certified {
                assert_eq!(status(bare.admits(&peer, &headers, wish)), without, "{case}, bare");
            }
        }
        assert!(!format!("{admission:?}").contains("\"change\""), "tokens are never shown");
    }

    #[test]
    fn what_a_path_is_for() {
        #[rustfmt::skip]
        let cases = [
            (Method::GET,     "/primary",           Wish::Check),
            (Method::OPTIONS, "/replica",           Wish::Check),
            (Method::GET,     "/metrics",           Wish::Read),
            (Method::GET,     "/v1/topology/watch", Wish::Read),
            (Method::GET,     "/v1/requests/1",     Wish::Change),
            (Method::GET,     "/v1/settings",       Wish::Change),
            (Method::GET,     "/v1/settings/here",  Wish::Change),
            (Method::GET,     "/v1/credentials",    Wish::Change),
            (Method::GET,     "/v1/credentials/exchange", Wish::Change),
            (Method::POST,    "/v1/freeze",         Wish::Change),
            (Method::DELETE,  "/v1/freeze",         Wish::Change),
            (Method::PUT,     "/v1/anything",       Wish::Change),
            (Method::POST,    "/primary",           Wish::Change),
        ];
        for (method, path, wish) in cases {
            assert_eq!(Wish::of(&method, path), wish, "{method} {path}");
        }
    }
}
