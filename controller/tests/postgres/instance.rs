//! One supervised server in a directory of its own, and what a test does with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dugong_controller::clock::Clock;
use dugong_controller::config::{Origin, RepairConfig};
use dugong_controller::credentials::{Credentials, Password};
use dugong_controller::postgres::{
    Advisor, Doorkeeper, GiveUp, Mandate, Migration, Seen, Settings, StartError, Supervised,
    find_bin, supervise,
};
use dugong_controller::store::Edition;
use dugong_machine::{
    Access, Goal, Names, Neighbours, Old, PrimaryGoal, PrimaryView, RequestNumber, Run, Server,
    Sessions, StandbyGoal, StandbyView, Time, Upstream,
};
use dugong_tests::{chosen_postgres, free_port};
use dugong_topology::{Address, Generation, InstanceId, TimelineId};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::sync::{mpsc, watch};
use tokio_postgres::{Client, NoTls};

use crate::process_of_a_test::{again, as_postgres};
use crate::processes::{postmaster_of, server_processes};

/// The longest that anything here may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Set in a process that is to be killed: the directory of its instance.
const VICTIM: &str = "DUGONG_TEST_VICTIM";

/// Commits wait for all of them.
pub(crate) fn each(names: &[&str]) -> Names {
    Names::Each(names.iter().map(|name| id(name)).collect())
}

pub(crate) fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) generation: Generation,
    /// The one that its promotion begins.
    pub(crate) timeline: TimelineId,
    /// A primary that died is started again only in a later one.
    pub(crate) life: u32,
    pub(crate) downstreams: BTreeSet<InstanceId>,
    pub(crate) checkpoint: Option<RequestNumber>,
    pub(crate) credentials: Credentials,
    /// The newest observation.
    pub(crate) server: Server,
    /// The newest confirmed heartbeat.
    pub(crate) confirmed: Option<Time>,
    settings: Settings,
    supervised: Supervised,
    /// What the store says of the cluster's settings.
    pub(crate) editions: watch::Sender<Option<Arc<Edition>>>,
    /// The passwords that hold.
    pub(crate) exchange: watch::Sender<Arc<Credentials>>,
    /// Shared by the instances of a cluster; removed with the last of them.
    folder: Option<TempDir>,
}

impl Instance {
    /// An instance of a cluster of its own, with nothing in its directory.
    pub(crate) async fn new(name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("dugong-").tempdir().unwrap();
        let credentials = Credentials::generate().unwrap();
        let dir = folder.path().join(name);
        Self::supervised(name, dir, credentials, Some(folder))
    }

    /// A further instance of `other`'s cluster.
    pub(crate) async fn new_in(other: &Self, name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("dugong-").tempdir().unwrap();
        let dir = folder.path().join(name);
        Self::supervised(name, dir, other.credentials.clone(), Some(folder))
    }

    /// An instance of a machine of its own: one that differs by `machine` from those of today.
    pub(crate) async fn on_machine(
        name: &str,
        credentials: &Credentials,
        machine: impl FnOnce(&mut Settings),
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("dugong-").tempdir().unwrap();
        let dir = folder.path().join(name);
        let mut settings = Self::settings(name, dir, credentials.clone());
        machine(&mut settings);
        Self::with_settings(settings, Some(folder))
    }

    fn supervised(
        name: &str,
        dir: PathBuf,
        credentials: Credentials,
        folder: Option<TempDir>,
    ) -> Self {
        Self::with_settings(Self::settings(name, dir, credentials), folder)
    }

    fn settings(name: &str, dir: PathBuf, credentials: Credentials) -> Settings {
        let (bin, version) = find_bin(chosen_postgres().as_deref()).unwrap();
        Settings {
            instance: id(name),
            cluster: "main".to_owned(),
            dir,
            bin,
            version,
            warden: PathBuf::from(env!("CARGO_BIN_EXE_dugong-controller")),
            listen: Address::loopback(free_port()),
            networks: Vec::new(),
            plain_networks: Vec::new(),
            tls: None,
            extra: BTreeMap::from([("shared_buffers".to_owned(), "16MB".to_owned())]),
            credentials,
            heartbeat_interval: Duration::from_millis(200),
            storage_deadline: None,
            repair: RepairConfig::default(),
            origin: Origin::default(),
        }
    }

    fn with_settings(settings: Settings, folder: Option<TempDir>) -> Self {
        let (editions, newest) = watch::channel(None);
        let (exchange, credentials) = watch::channel(Arc::new(settings.credentials.clone()));
        let supervised = supervise(settings.clone(), Clock, newest, credentials).unwrap();
        supervised.lease.send_replace(Clock.now().after(DEADLINE * 10));
        Self {
            id: settings.instance.clone(),
            generation: Generation(1),
            timeline: TimelineId(2),
            life: 0,
            downstreams: BTreeSet::new(),
            checkpoint: None,
            credentials: settings.credentials.clone(),
            server: Server::unknown(),
            confirmed: None,
            settings,
            supervised,
            editions,
            exchange,
            folder,
        }
    }

    /// What can be asked about its server's settings.
    pub(crate) fn advisor(&self) -> &Advisor {
        &self.supervised.advisor
    }

    /// Who is let in by its server.
    pub(crate) fn doorkeeper(&self) -> &Doorkeeper {
        &self.supervised.doorkeeper
    }

    /// Ends its supervision, as the end of a controller does.
    pub(crate) async fn end(self) -> Ended {
        let Self { settings, supervised, folder, .. } = self;
        let Supervised { goal, seen, task, .. } = supervised;
        drop((goal, seen));
        task.await.unwrap();
        Ended { settings, folder }
    }

    /// Ends its supervision in order, and leaves its server running.
    pub(crate) async fn leave_running(self, mandate: Mandate) -> Ended {
        let Self { settings, supervised, folder, .. } = self;
        let Supervised { goal, seen, leave_running, task, .. } = supervised;
        leave_running.send(mandate).unwrap();
        drop((goal, seen));
        task.await.unwrap();
        Ended { settings, folder }
    }

    /// An operator's word about its data.
    pub(crate) fn give_up(&self) -> &mpsc::Sender<GiveUp> {
        &self.supervised.give_up
    }

    /// Where an operator ends its following.
    pub(crate) fn migration(&self) -> &Migration {
        &self.supervised.migration
    }

    /// Where it lies, and what else it was told.
    pub(crate) fn told(&self) -> &Settings {
        &self.settings
    }

    /// The end of the lease that its server lives by, if it is a primary.
    pub(crate) fn lease_ends_in(&self, span: Duration) {
        self.supervised.lease.send_replace(Clock.now().after(span));
    }

    /// What the controller before this one has left.
    pub(crate) fn inherited(&self) -> Option<Mandate> {
        self.supervised.inherited
    }

    pub(crate) fn supervise_again(&self) -> Result<Supervised, StartError> {
        let credentials = watch::channel(Arc::new(self.settings.credentials.clone())).1;
        supervise(self.settings.clone(), Clock, watch::channel(None).1, credentials)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.settings.dir.canonicalize().unwrap().join("data")
    }

    pub(crate) fn upstream(&self) -> Upstream {
        Upstream { id: self.id.clone(), address: self.settings.listen.clone() }
    }

    pub(crate) fn want(&self, goal: Goal) {
        self.supervised.goal.send(Some(goal)).unwrap();
    }

    /// Who becomes its sync when it is promoted.
    pub(crate) fn next_sync(&self, name: &str) {
        let neighbours = Neighbours { primary: None, next_sync: Some(id(name)) };
        self.supervised.neighbours.send_replace(neighbours);
    }

    pub(crate) fn primary(&self, names: &[&str], access: Access) {
        self.primary_with(names, access, Sessions::Stay);
    }

    pub(crate) fn primary_with(&self, names: &[&str], access: Access, sessions: Sessions) {
        self.want_primary(each(names), access, sessions);
    }

    /// A primary whose commits wait for nobody.
    pub(crate) fn one_node(&self) {
        self.want_primary(Names::OneNode, Access::ReadWrite, Sessions::Stay);
    }

    fn want_primary(&self, names: Names, access: Access, sessions: Sessions) {
        self.want(Goal::Primary(PrimaryGoal {
            generation: self.generation,
            timeline: self.timeline,
            names,
            access,
            sessions,
            checkpoint: self.checkpoint,
            downstreams: self.downstreams.clone(),
            life: self.life,
        }));
    }

    pub(crate) fn standby(&self, upstream: Option<&Self>) {
        self.want(Goal::Standby(StandbyGoal {
            generation: self.generation,
            upstream: upstream.map(Self::upstream),
            heir: false,
            downstreams: self.downstreams.clone(),
        }));
    }

    pub(crate) fn copy_goal(&self, source: &Self, making: u32) -> Goal {
        Goal::Copied {
            source: source.upstream(),
            generation: self.generation,
            making,
            old: Old::Untouched,
        }
    }

    pub(crate) async fn copy_of(&mut self, source: &Self, making: u32) {
        self.want(self.copy_goal(source, making));
        self.until("the copy is there", |server| {
            server.run == Run::Down && server.identity().is_some_and(|own| own.making == making)
        })
        .await;
    }

    pub(crate) async fn initialise(&mut self) {
        self.want(Goal::Initialised);
        self.until("it is initialised", |server| {
            server.run == Run::Down && server.identity().is_some()
        })
        .await;
        assert_eq!(self.server.identity().unwrap().generation, Generation(0));
    }

    /// Takes the next thing that was seen.
    pub(crate) async fn next(&mut self) {
        let seen = tokio::time::timeout(DEADLINE, self.supervised.seen.recv()).await;
        match seen.expect("nothing was seen in time").expect("the supervisor has ended") {
            Seen::Observed(server) => self.server = server,
            Seen::LinkConfirmed { begun } => self.confirmed = Some(begun),
        }
    }

    /// Waits for an observation; those that lie there already count, too.
    pub(crate) async fn until(&mut self, what: &str, mut is_so: impl FnMut(&Server) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.next().await;
            if is_so(&self.server) {
                return;
            }
            let late = Instant::now() > deadline;
            assert!(
                !late,
                "{}: not seen: {what}; last: {:#?}\n{}",
                self.id,
                self.server,
                self.log()
            );
        }
    }

    pub(crate) async fn until_primary(
        &mut self,
        what: &str,
        is_so: impl Fn(&PrimaryView) -> bool,
    ) -> PrimaryView {
        let mut found = None;
        self.until(what, |server| match &server.run {
            Run::Primary(view) if is_so(view) => found.insert(view.clone()) == view,
            Run::Primary(_) | Run::Unknown | Run::Down | Run::Busy(_) | Run::Standby(_) => false,
        })
        .await;
        found.unwrap()
    }

    pub(crate) async fn until_standby(
        &mut self,
        what: &str,
        is_so: impl Fn(&StandbyView) -> bool,
    ) -> StandbyView {
        let mut found = None;
        self.until(what, |server| match &server.run {
            Run::Standby(view) if is_so(view) => found.insert(view.clone()) == view,
            Run::Standby(_) | Run::Unknown | Run::Down | Run::Busy(_) | Run::Primary(_) => false,
        })
        .await;
        found.unwrap()
    }

    pub(crate) async fn until_open(&mut self) {
        self.until_primary("it is open", |view| view.access == Access::ReadWrite).await;
    }

    pub(crate) async fn until_confirmed(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while self.confirmed.is_none() {
            self.next().await;
            assert!(Instant::now() < deadline, "no heartbeat came back");
        }
    }

    /// Waits until so many backends wait for synchronous replication.
    pub(crate) async fn until_waiting_commits(&mut self, count: i64) {
        let client = self.client().await;
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.next().await;
            let row = client
                .query_one(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
                    &[],
                )
                .await
                .unwrap();
            if row.get::<_, i64>(0) >= count {
                return;
            }
            assert!(Instant::now() < deadline, "no {count} commits wait");
        }
    }

    /// A client by the local socket, as the superuser.
    pub(crate) async fn client(&self) -> Client {
        self.client_as(&self.credentials.superuser.name).await
    }

    pub(crate) async fn client_as(&self, user: &str) -> Client {
        let socket = self.settings.dir.join("run");
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(socket)
            .port(self.settings.listen.port)
            .user(user)
            .dbname("postgres")
            .connect(NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    /// An application logs in from the network, and leaves.
    pub(crate) async fn log_in(&self) -> Result<(), tokio_postgres::Error> {
        let application = &self.credentials.application;
        self.by_tcp(&application.name, &application.password).await.map(|_| ())
    }

    /// A client as an application has it.
    pub(crate) async fn tcp_client(&self) -> Client {
        let login = &self.credentials.superuser;
        self.by_tcp(&login.name, &login.password).await.unwrap()
    }

    /// The application logs in from another address, without TLS.
    pub(crate) async fn log_in_from(&self, source: &str) -> Result<Client, tokio_postgres::Error> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
        let listen = self.settings.listen.to_string().parse().unwrap();
        let stream = socket.connect(listen).await.unwrap();
        let application = &self.credentials.application;
        let (client, connection) = tokio_postgres::Config::new()
            .user(&application.name)
            .password(application.password.expose())
            .dbname(&application.database)
            .connect_raw(stream, NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn by_tcp(
        &self,
        user: &str,
        password: &Password,
    ) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host(&self.settings.listen.host)
            .port(self.settings.listen.port)
            .user(user)
            .password(password.expose())
            .dbname("postgres")
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The process id of the running postmaster.
    pub(crate) fn postmaster(&self) -> i32 {
        postmaster_of(&self.data()).unwrap()
    }

    pub(crate) fn kill(&self, pid: i32) {
        self.signal(pid, Signal::KILL);
    }

    pub(crate) fn signal(&self, pid: i32, signal: Signal) {
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.settings.dir.join("postgres.log"));
        let log = log.unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// An instance without its controller.
pub(crate) struct Ended {
    settings: Settings,
    folder: Option<TempDir>,
}

impl Ended {
    /// Starts its server as a person would.
    pub(crate) fn start_by_hand(&self) -> Child {
        let port = self.settings.listen.port;
        Command::new(self.settings.bin.join("postgres"))
            .arg("-D")
            .arg(self.settings.dir.join("data"))
            .args(["-c", "listen_addresses=", "-c", &format!("port={port}")])
            .args(["-c", &format!("unix_socket_directories={}/run", self.settings.dir.display())])
            .spawn()
            .unwrap()
    }

    /// Its next controller is told something else.
    pub(crate) fn tell(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
    }

    /// Its next controller is configured otherwise.
    pub(crate) fn move_to_another_port(&mut self) {
        self.settings.listen = Address::loopback(free_port());
    }

    /// Its next controller.
    pub(crate) fn resume(self) -> Instance {
        Instance::with_settings(self.settings, self.folder)
    }
}

/// A primary whose sync, a copy of it, is about to stream.
pub(crate) async fn cluster_of_two() -> (Instance, Instance) {
    let mut primary = Instance::new("pg-1").await;
    primary.initialise().await;
    primary.downstreams = [id("pg-2")].into();
    primary.primary(&["pg-2"], Access::ReadOnly);
    primary.until_primary("it runs", |_| true).await;
    let mut standby = Instance::new_in(&primary, "pg-2").await;
    standby.copy_of(&primary, 1).await;
    standby.standby(Some(&primary));
    (primary, standby)
}

/// A process that supervises a primary is killed; its server must go, too.
#[expect(clippy::print_stdout, reason = "how long it took is worth reading")]
pub(crate) fn supervising_process_is_killed() {
    if let Some(dir) = std::env::var_os(VICTIM) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let credentials = Credentials::generate().unwrap();
            let mut instance = Instance::supervised("pg-1", PathBuf::from(dir), credentials, None);
            instance.initialise().await;
            instance.primary(&["pg-2"], Access::ReadOnly);
            loop {
                instance.next().await; // Until it is killed.
            }
        });
    }
    as_postgres(async {
        let folder = tempfile::Builder::new().prefix("dugong-").tempdir().unwrap();
        let dir = folder.path().join("pg-1");
        let mut victim = again(&[(VICTIM, dir.to_str().unwrap())]).spawn().unwrap();
        let data = dir.join("data");
        let deadline = Instant::now() + DEADLINE;
        let socket = dir.join("run");
        let runs = || server_processes(&data).len() > 3 && socket.read_dir().is_ok();
        while !runs() {
            assert!(Instant::now() < deadline, "the server does not run");
            assert!(victim.try_wait().unwrap().is_none(), "the supervising process has ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let begun = Instant::now();
        victim.kill().unwrap();
        victim.wait().unwrap();
        while !server_processes(&data).is_empty() {
            assert!(Instant::now() < deadline, "the server outlives its controller");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("the server was gone {:?} after its controller", begun.elapsed());
    });
}
