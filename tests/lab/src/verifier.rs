//! `dugong verify`'s own recorder and judge, from the clients' host: the tool that users hold
//! against their clusters is held against this one.

use std::future::pending;

use dugong_controller::credentials::Credentials;
use dugong_controller::verify::{Addresses, Options, Recorder, Verdict, judge};

use crate::cluster::Cluster;
use crate::papers;
use crate::plan::{READ, WRITE};
use crate::resident::{Over, Resident};

/// A recorder at work; its verdict when it is over.
pub type Verifier = Resident<anyhow::Result<Verdict>>;

/// Begins to record, at the last proxy's two addresses.
///
/// # Errors
///
/// The passwords cannot be read, or a thread cannot be started.
pub fn start(cluster: &Cluster, seed: u64, over: &Over) -> anyhow::Result<Verifier> {
    let (network, hosts) = (cluster.network(), cluster.hosts());
    let login = Credentials::load(&cluster.root().join("credentials.json"))?.application;
    let proxy = hosts.proxies.last().copied().unwrap_or(hosts.clients);
    let tls = papers::believed(cluster.root());
    let tls = tls.map(|root| format!("sslmode=prefer sslrootcert='{}'", root.display()));
    let tls = tls.unwrap_or_default();
    let dsn = |port: u16| {
        format!(
            "host={} port={port} user={} password={} dbname={} {tls}",
            network.address(proxy),
            login.name,
            login.password.expose(),
            login.database
        )
    };
    let addresses = Addresses::parse(&dsn(WRITE), Some(&dsn(READ)))?;
    let options = Options { seed, ..Options::default() };
    let over = over.clone();
    let work = move || record(addresses, options, over);
    Resident::settle(network.namespace(hosts.clients), work)
}

async fn record(addresses: Addresses, options: Options, mut over: Over) -> anyhow::Result<Verdict> {
    let recorder = Recorder::start(addresses, options).await?;
    // Its tasks run on this thread while it waits.
    over.unless(pending::<()>()).await;
    Ok(judge(&recorder.finish().await?))
}
