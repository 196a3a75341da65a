//! A certificate authority for one cluster, and the certificates that it signs.
//!
//! ECDSA on P-256 with SHA-256: known to every TLS of today, PostgreSQL's and rustls' among them.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// How long the authority may sign: about as long as a cluster lives.
pub const AUTHORITY_DAYS: u32 = 3650;
/// How long a machine's certificate counts. Whoever renews it yearly has a year in reserve.
pub const MACHINE_DAYS: u32 = 730;

/// Clocks of machines differ: a certificate counts from an hour before it was made.
const LATE_CLOCK: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key, both in PEM.
pub struct Signed {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// A new authority of that name.
    ///
    /// # Errors
    ///
    /// There are no random numbers, or the name cannot be one.
    pub fn new(name: &str) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = named(name);
        // It signs machines, and nobody who could sign others.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        counts_for(&mut params, AUTHORITY_DAYS);
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Its own certificate, for everybody.
    pub fn certificate(&self) -> String {
        self.certificate.pem()
    }

    /// Its private key, for nobody.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate of a machine, as a server and as a client, for these names and addresses. The
    /// first one is its common name.
    ///
    /// # Errors
    ///
    /// There are no random numbers, or a name cannot be one.
    pub fn sign(&self, names: &[&str]) -> Result<Signed, rcgen::Error> {
        let known: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(known)?;
        params.distinguished_name = named(names.first().copied().unwrap_or_default());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        counts_for(&mut params, MACHINE_DAYS);
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Signed { certificate, key: key.serialize_pem() })
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn counts_for(params: &mut CertificateParams, days: u32) {
    // A clock before 1970 is as good as none.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = date_time_ymd(1970, 1, 1) + now;
    params.not_before = now - LATE_CLOCK;
    params.not_after = now + DAY * days;
}
