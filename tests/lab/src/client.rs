//! A client's connection, every step of it with a limit.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use dugong_controller::credentials::Credentials;
use dugong_controller::verify::tls::{Mode, Tls, Words};
use tokio::time::timeout;
use tokio_postgres::{Client, Config};

use crate::papers;

/// Who connects, and as whom.
#[derive(Clone, Debug)]
pub struct Dialer {
    config: Config,
    tls: Tls,
    /// For a connection, and for each statement: what takes longer is given up.
    limit: Duration,
}

impl Dialer {
    /// As the cluster's application role.
    ///
    /// # Errors
    ///
    /// The passwords cannot be read.
    pub fn new(root: &Path, to: SocketAddr, limit: Duration) -> anyhow::Result<Self> {
        let login = Credentials::load(&root.join("credentials.json"))?.application;
        let mut config = Config::new();
        config.host(to.ip().to_string()).port(to.port()).connect_timeout(limit);
        // Encrypted where it is offered, and then verified: proxies that offer it ask for it.
        let mut words = Words { mode: Mode::Disable, ..Words::default() };
        if let Some(root) = papers::believed(root) {
            words = Words { mode: Mode::Prefer, root: Some(root), ..words };
        }
        let tls = Tls::new(&words)?;
        config.ssl_mode(tls.mode());
        config.user(login.name).password(login.password.expose()).dbname(login.database);
        Ok(Self { config, tls, limit })
    }

    /// A connection whose other half runs by itself.
    ///
    /// # Errors
    ///
    /// What the server, or the way to it, said; or that nobody answered in time.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let (client, connection) = self.limited(self.config.connect(self.tls.clone())).await?;
        // It ends with the client, or with the server: the client is told in both cases.
        tokio::spawn(connection);
        Ok(client)
    }

    /// What comes within the limit.
    ///
    /// # Errors
    ///
    /// The server's, or that nobody answered in time: then the outcome is unknown.
    pub async fn limited<T>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> anyhow::Result<T> {
        let answered = timeout(self.limit, work).await;
        let answer = answered.with_context(|| format!("no answer within {:?}", self.limit))?;
        answer.map_err(|error| match error.as_db_error() {
            Some(said) => anyhow::anyhow!("{} {}", said.code().code(), said.message()),
            None => error.into(),
        })
    }
}
