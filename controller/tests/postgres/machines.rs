//! Instances of several machines: each has an address of its own, and lets in whom it was told.

use dugong_controller::credentials::Credentials;
use dugong_machine::{Access, Receiver};
use tokio_postgres::error::SqlState;

use crate::instance::{Instance, as_postgres, id};

/// One half of four neighbours.
const NETWORK: &str = "127.0.0.4/31";
const WITHIN: [&str; 2] = ["127.0.0.4", "127.0.0.5"];
const BESIDE: [&str; 2] = ["127.0.0.6", "127.0.0.7"];

async fn machine(name: &str, host: &str, credentials: &Credentials) -> Instance {
    Instance::on_machine(name, credentials, |settings| {
        settings.listen.host = host.to_owned();
        settings.networks = vec![NETWORK.parse().unwrap()];
    })
    .await
}

#[test]
fn machines_follow_each_other_and_let_in_their_networks_once_they_are_open() {
    as_postgres(async {
        let credentials = Credentials::generate().unwrap();
        let mut primary = machine("pg-1", "127.0.0.2", &credentials).await;
        let mut standby = machine("pg-2", "127.0.0.3", &credentials).await;
        primary.initialise().await;
        primary.downstreams = [id("pg-2")].into();
        primary.primary(&["pg-2"], Access::ReadOnly);
        primary.until_primary("it runs", |_| true).await;
        standby.copy_of(&primary, 1).await;
        standby.standby(Some(&primary));
        standby.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;

        // R5: not open yet, wherever they come from.
        let denied = Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        for address in WITHIN.into_iter().chain(BESIDE) {
            assert_eq!(primary.log_in_from(address).await.unwrap_err().code(), denied, "{address}");
        }
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_open().await;
        for instance in [&primary, &standby] {
            instance.log_in().await.unwrap();
            for address in WITHIN {
                instance.log_in_from(address).await.unwrap();
            }
            for address in BESIDE {
                let refused = instance.log_in_from(address).await.unwrap_err();
                assert_eq!(refused.code(), denied, "{address}: {refused}");
            }
        }
    });
}
