//! One address that leads to one server or another.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Relays connections to the server that it leads to; ends them when it leads elsewhere.
pub(crate) struct Forwarder {
    port: u16,
    target: watch::Sender<u16>,
    _tasks: JoinSet<()>,
}

impl Forwarder {
    pub(crate) async fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", dugong_tests::free_port())).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (target, watched) = watch::channel(target);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                relays.spawn(relay(client, watched.clone()));
                while relays.try_join_next().is_some() {}
            }
        });
        Self { port, target, _tasks: tasks }
    }

    pub(crate) fn lead_to(&self, target: u16) {
        self.target.send_replace(target);
    }

    pub(crate) fn dsn(&self) -> String {
        crate::server::dsn(self.port)
    }
}

async fn relay(mut client: TcpStream, mut target: watch::Receiver<u16>) {
    let port = *target.borrow_and_update();
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return; // As if nobody listened.
    };
    // Whatever is under way when it leads elsewhere is cut off, with both sockets.
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => (),
        _ = target.changed() => (),
    }
}
