//! A local cluster from its first process to its last.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use dugong_topology::{Freeze, InstanceId};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::LocalSet;

use super::children::{Keeper, Killer, Recipe};
use super::layout::InstancePorts;
use super::prepare::{PROGRAMS, Prepared};
use super::progress::{Progress, say};
use crate::run::Failure;
use crate::store::freeze::{Refrozen, freeze_by, try_to_refreeze};
use crate::store::sqlite::SqliteStore;

/// Who the launcher's own freeze is by; an operator's freeze is never touched.
const FROZEN_BY: &str = "dugong up";

/// How long a controller may take to stop its server, and the proxy to tell its clients.
const CONTROLLER_PATIENCE: Duration = Duration::from_secs(60);
const PROXY_PATIENCE: Duration = Duration::from_secs(10);

/// How often the freeze is declared anew when somebody else was faster.
const FREEZE_TRIES: usize = 10;

/// Runs until SIGINT or SIGTERM; then ends everything in order.
pub(super) async fn run(prepared: Prepared) -> Result<(), Failure> {
    let local = LocalSet::new();
    local.run_until(serve(Arc::new(prepared))).await
}

async fn serve(prepared: Arc<Prepared>) -> Result<(), Failure> {
    let mut stops = (
        signal(SignalKind::interrupt()).map_err(Failure::runtime)?,
        signal(SignalKind::terminate()).map_err(Failure::runtime)?,
    );
    say!("the cluster's directory is {}", prepared.layout.root().display());
    if prepared.cluster.one_node {
        say!("WARNING: one node: an acknowledged write is on the disk of this instance only,");
        say!(
            "         and nobody takes over from it. `dugong up --instances 3` makes it a cluster."
        );
    }
    thaw(&prepared).await?;
    let mut controllers: Vec<(InstanceId, Keeper)> = prepared
        .cluster
        .instances
        .iter()
        .map(|instance| {
            let recipe = controller(&prepared, instance.clone());
            (instance.id.clone(), Keeper::start(prepared.clone(), recipe))
        })
        .collect();
    let mut proxy = Keeper::start(prepared.clone(), proxy(&prepared));
    let mut progress = Progress::begin(&prepared);
    tokio::select! {
        () = progress.tell() => (), // Never ends by itself.
        () = told(&mut stops) => (),
    }
    say!("stopping; once more stops at once");
    let primary = progress.primary();
    let killers: Vec<Killer> =
        controllers.iter().map(|(_, keeper)| keeper).chain([&proxy]).map(Keeper::killer).collect();
    let end = end_in_order(&prepared, &mut proxy, &mut controllers, primary);
    tokio::pin!(end);
    tokio::select! {
        () = &mut end => (),
        () = told(&mut stops) => {
            say!("stopping at once");
            killers.iter().for_each(Killer::kill);
            end.await;
        }
    }
    say!("stopped; `dugong up` resumes the cluster with its data");
    Ok(())
}

async fn told(stops: &mut (Signal, Signal)) {
    tokio::select! {
        _ = stops.0.recv() => (),
        _ = stops.1.recv() => (),
    }
}

/// Clients first; then the primary, so that the standbys receive its last WAL; then the others.
async fn end_in_order(
    prepared: &Prepared,
    proxy: &mut Keeper,
    controllers: &mut [(InstanceId, Keeper)],
    primary: Option<InstanceId>,
) {
    if let Err(failure) = freeze(prepared).await {
        say!("the cluster could not be frozen for the stop, so roles may change: {failure}");
    }
    proxy.end().await;
    say!("the proxy has ended");
    controllers.sort_by_key(|(id, _)| Some(id) != primary.as_ref());
    let (first, others) = controllers.split_at_mut(1);
    for (id, keeper) in first {
        keeper.end().await;
        say!("{id} has ended");
    }
    let others = others.iter_mut().map(|(id, keeper)| async move {
        keeper.end().await;
        say!("{id} has ended");
    });
    futures_util::future::join_all(others).await;
}

fn controller(prepared: &Prepared, instance: InstancePorts) -> Recipe {
    let directory = prepared.layout.instance(&instance.id);
    Recipe {
        name: format!("the controller of {}", instance.id),
        program: PROGRAMS[0],
        config: directory.join("controller.toml"),
        log: directory.join("controller.log"),
        pid_file: directory.join("controller.pid"),
        patience: CONTROLLER_PATIENCE,
        restore: Box::new(move |prepared| prepared.write_instance(&instance)),
    }
}

fn proxy(prepared: &Prepared) -> Recipe {
    Recipe {
        name: "the proxy".to_owned(),
        program: PROGRAMS[1],
        config: prepared.layout.proxy("toml"),
        log: prepared.layout.proxy("log"),
        pid_file: prepared.layout.proxy("pid"),
        patience: PROXY_PATIENCE,
        restore: Box::new(|_| Ok(())),
    }
}

/// Nobody shall take over while all instances stop.
async fn freeze(prepared: &Prepared) -> Result<(), Failure> {
    let freeze = freeze_by(FROZEN_BY.to_owned(), "stopping all instances".to_owned());
    refreeze(prepared, |now| now.is_none().then(|| Some(freeze.clone()))).await
}

/// Takes the launcher's own freeze back.
async fn thaw(prepared: &Prepared) -> Result<(), Failure> {
    let own = |now: Option<&Freeze>| now.is_some_and(|freeze| freeze.by == FROZEN_BY);
    refreeze(prepared, |now| own(now).then_some(None)).await
}

/// Tries to change the record's freeze, where there is a record.
async fn refreeze(
    prepared: &Prepared,
    change: impl Fn(Option<&Freeze>) -> Option<Option<Freeze>>,
) -> Result<(), Failure> {
    let path = prepared.layout.store();
    if !path.exists() {
        return Ok(());
    }
    let store = SqliteStore::observe(&path).map_err(Failure::runtime)?;
    for _ in 0..FREEZE_TRIES {
        match try_to_refreeze(&store, &change).await.map_err(Failure::runtime)? {
            Refrozen::Settled { .. } | Refrozen::NoRecord => break,
            Refrozen::Raced => (),
        }
    }
    drop(store);
    // Root may have made the files that belong to the store.
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        let file = std::path::PathBuf::from(name);
        if fs::exists(&file).unwrap_or(false) {
            prepared.user.own(&file)?;
        }
    }
    Ok(())
}
