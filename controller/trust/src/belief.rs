//! Whom a client of PostgreSQL believes: the rules are libpq's `sslmode`s.
//!
//! Source: PostgreSQL manual, "SSL Support" of libpq, table "SSL Mode Descriptions".

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Whom we believe.
#[derive(Debug)]
pub enum Belief {
    /// Any certificate, of whose key the server has proof.
    Anybody(Arc<CryptoProvider>),
    /// Whoever the authority has signed for, whatever its host.
    Authority(Arc<WebPkiServerVerifier>),
    /// The very host.
    Host(Arc<WebPkiServerVerifier>),
}

impl Belief {
    /// Whoever it is.
    pub fn anybody() -> Self {
        Self::Anybody(Arc::new(ring::default_provider()))
    }

    /// # Errors
    ///
    /// The roots hold no authority.
    pub fn authority(roots: RootCertStore) -> Result<Self, VerifierBuilderError> {
        Ok(Self::Authority(verifier(roots)?))
    }

    /// # Errors
    ///
    /// The roots hold no authority.
    pub fn host(roots: RootCertStore) -> Result<Self, VerifierBuilderError> {
        Ok(Self::Host(verifier(roots)?))
    }

    fn provider(&self) -> Result<&CryptoProvider, &WebPkiServerVerifier> {
        match self {
            Self::Anybody(provider) => Ok(provider),
            Self::Authority(verifier) | Self::Host(verifier) => Err(verifier),
        }
    }
}

fn verifier(roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, VerifierBuilderError> {
    let provider = Arc::new(ring::default_provider());
    WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build()
}

impl ServerCertVerifier for Belief {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let good = Ok(ServerCertVerified::assertion());
        match self {
            Self::Anybody(_) => good,
            Self::Host(verifier) => verifier.verify_server_cert(end, between, name, ocsp, now),
            Self::Authority(verifier) => {
                match verifier.verify_server_cert(end, between, name, ocsp, now) {
                    // The name is looked at last, once all else was good.
                    Err(Error::InvalidCertificate(
                        CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. },
                    )) => good,
                    verified => verified,
                }
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.provider() {
            Ok(provider) => rustls::crypto::verify_tls12_signature(
                message,
                certificate,
                signed,
                &provider.signature_verification_algorithms,
            ),
            Err(verifier) => verifier.verify_tls12_signature(message, certificate, signed),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.provider() {
            Ok(provider) => rustls::crypto::verify_tls13_signature(
                message,
                certificate,
                signed,
                &provider.signature_verification_algorithms,
            ),
            Err(verifier) => verifier.verify_tls13_signature(message, certificate, signed),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self.provider() {
            Ok(provider) => provider.signature_verification_algorithms.supported_schemes(),
            Err(verifier) => verifier.supported_verify_schemes(),
        }
    }
}
