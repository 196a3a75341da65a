//! How an operator reaches controllers: those of a cluster on this machine, or any by their URLs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use crate::credentials::{Credentials, Password};
use crate::launch::layout::Layout;
use crate::run::Failure;

/// What every command that speaks with controllers is told.
#[derive(Args, Clone, Debug, Default)]
pub struct ReachOptions {
    /// The cluster's directory, for one that `dugong up` runs on this machine.
    #[arg(long, env = "DUGONG_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A controller, as in https://10.0.0.1:8008; repeat it, or separate them by commas.
    #[arg(
        long = "controller",
        env = "DUGONG_CONTROLLERS",
        value_name = "URL",
        value_delimiter = ',',
        conflicts_with = "dir"
    )]
    pub controllers: Vec<String>,
    /// The certificates (PEM) that an https:// controller is verified by.
    #[arg(long, env = "DUGONG_CA", value_name = "FILE", requires = "controllers")]
    pub ca: Option<PathBuf>,
    /// The file of the token that [http] token_file of the controllers has.
    #[arg(long, env = "DUGONG_TOKEN_FILE", value_name = "FILE", requires = "controllers")]
    pub token_file: Option<PathBuf>,
    /// Your own certificate (PEM), where [http] client_ca of the controllers trusts it.
    #[arg(long, env = "DUGONG_CERT", value_name = "FILE", requires_all = ["controllers", "key"])]
    pub cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, env = "DUGONG_KEY", value_name = "FILE", requires_all = ["controllers", "cert"])]
    pub key: Option<PathBuf>,
}

/// One controller to ask.
#[derive(Clone)]
pub struct Controller {
    /// The instance, or what the operator called it.
    pub(super) name: String,
    /// `host:port`.
    pub(super) address: String,
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub(super) token: Option<Password>,
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl Controller {
    /// A controller of this machine, to read from.
    pub fn here(port: u16) -> Self {
        let address = format!("127.0.0.1:{port}");
        Self { name: address.clone(), address, tls: None, token: None }
    }
}

/// The controllers that are meant; never none.
pub(super) fn controllers(options: &ReachOptions) -> Result<Vec<Controller>, Failure> {
    if options.controllers.is_empty() {
        return of_this_machine(options.dir.as_deref());
    }
    let token = options.token_file.as_ref().map(|path| dugong_trust::secret("--token-file", path));
    let token = token.transpose().map_err(Failure::runtime)?.map(Password::of);
    let tls = Arc::new(client_config(options)?);
    let controller = |url: &String| {
        let (secure, rest) = match url.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, url.strip_prefix("http://").unwrap_or(url)),
        };
        let address = rest.trim_end_matches('/').to_owned();
        let parsed: dugong_topology::Address = address.parse().map_err(|_no_address| {
            Failure::Usage(format!(
                "--controller {url}: write a controller's address as in https://10.0.0.1:8008"
            ))
        })?;
        if secure && options.ca.is_none() {
            return Err(Failure::Usage(format!(
                "--controller {url}: --ca must name the certificates that it is verified by"
            )));
        }
        if !secure && token.is_some() && !is_here(&parsed.host) {
            return Err(Failure::Usage(format!(
                "--controller {url}: a token would be sent in clear; use https://"
            )));
        }
        let name = ServerName::try_from(parsed.host.clone()).map_err(Failure::runtime)?;
        let tls = secure.then(|| (tls.clone(), name));
        Ok(Controller { name: url.clone(), address, tls, token: token.clone() })
    };
    options.controllers.iter().map(controller).collect()
}

pub(super) fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Those of `dugong up`, with the superuser's password for whatever they are asked to change.
fn of_this_machine(dir: Option<&Path>) -> Result<Vec<Controller>, Failure> {
    let layout = Layout::of(dir);
    let cluster = layout.existing()?;
    // Whoever may not read the passwords may still look.
    let token = Credentials::load(&layout.credentials()).ok();
    let token = token.map(|credentials| credentials.superuser.password);
    let of = |instance: &crate::launch::layout::InstancePorts| Controller {
        name: instance.id.to_string(),
        token: token.clone(),
        ..Controller::here(instance.http_port)
    };
    Ok(cluster.instances.iter().map(of).collect())
}

fn client_config(options: &ReachOptions) -> Result<ClientConfig, Failure> {
    let roots = match &options.ca {
        Some(path) => dugong_trust::roots("--ca", path).map_err(Failure::runtime)?,
        None => RootCertStore::empty(),
    };
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(Failure::runtime)?
        .with_root_certificates(roots);
    let (Some(cert), Some(key)) = (&options.cert, &options.key) else {
        return Ok(builder.with_no_client_auth());
    };
    let secret = dugong_trust::private_key("--key", key).map_err(Failure::runtime)?;
    let chain = dugong_trust::certificates("--cert", cert).map_err(Failure::runtime)?;
    builder.with_client_auth_cert(chain, secret).map_err(|error| {
        Failure::Runtime(format!("--cert and --key cannot be used together: {error}"))
    })
}
