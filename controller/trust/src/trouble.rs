//! Why a handshake failed, in words that say what to do.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// What names, for whoever reads the words, what a connection is made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Names whom we believe.
    pub ca: &'static str,
    /// Names our own certificate.
    pub cert: &'static str,
}

/// Why a peer and we do not understand each other; `its` is the peer's side.
pub fn words(error: &io::Error, keys: Keys) -> String {
    let Keys { ca, cert } = keys;
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "it closed the connection in the middle of the handshake".to_owned();
    }
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return error.to_string();
    };
    if let Error::InvalidCertificate(why) = error {
        certificate(why, ca)
    } else if let Error::AlertReceived(alert) = error
        && ABOUT_OURS.contains(alert)
    {
        format!("it does not take our certificate ({alert:?}): see {cert}")
    } else if let Error::InvalidMessage(_) = error {
        format!("what it says is no TLS ({error})")
    } else {
        error.to_string()
    }
}

/// What a peer says of a certificate of ours, or of the want of one.
const ABOUT_OURS: [AlertDescription; 8] = [
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::CertificateRequired,
];

#[expect(clippy::wildcard_enum_match_arm, reason = "the list is rustls', and open")]
fn certificate(why: &CertificateError, ca: &str) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("its certificate has expired: exchange it ({why})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("its certificate does not count yet: is the clock right? ({why})")
        }
        // A signature is bad where an authority has the name of another one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("its certificate was signed by no authority of {ca}")
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "its certificate is for another host: it is reached as {}, and the certificate has {}",
            expected.to_str(),
            if presented.is_empty() { "no names".to_owned() } else { presented.join(", ") }
        ),
        CertificateError::NotValidForName => {
            "its certificate is for another host than it is reached as".to_owned()
        }
        // By its word: what webpki says has no kind of its own in rustls.
        CertificateError::Other(other) if other.0.to_string() == "CaUsedAsEndEntity" => format!(
            "its certificate is an authority's own (as `openssl req -x509` makes them), which no server \
             may show: have that authority sign one for the server, and keep the authority in {ca}"
        ),
        other => format!("its certificate is not good: {other}"),
    }
}
