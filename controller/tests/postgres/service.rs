//! What a service manager hears of a controller.

use std::fs;
use std::process::Command;

use dugong_controller::credentials::Credentials;
use dugong_tests::{ServiceManager, chosen_postgres, free_port, terminate};

use crate::process_of_a_test::as_postgres;

#[test]
fn a_service_manager_is_told_that_a_controller_is_ready_lives_and_ends() {
    as_postgres(async {
        let (directory, manager) = (tempfile::tempdir().unwrap(), ServiceManager::start());
        let dir = directory.path();
        Credentials::generate().unwrap().store_new(&dir.join("credentials.json")).unwrap();
        let (file, dir) = (dir.join("controller.toml"), dir.display());
        let (listen, http) = (free_port(), free_port());
        let bin = chosen_postgres().map(|bin| format!("bin = \"{}\"\n", bin.display()));
        let bin = bin.unwrap_or_default();
        let content = format!(
            "instance = \"pg-1\"\ndir = \"{dir}/pg-1\"\ncredentials = \"{dir}/credentials.json\"\n\
             [postgres]\n{bin}listen = \"127.0.0.1:{listen}\"\n[http]\nlisten = \"127.0.0.1:{http}\"\n\
             [store]\npath = \"{dir}/store.db\"\n"
        );
        fs::write(&file, content).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dugong-controller"));
        command.arg("--config").arg(&file);
        manager.manages(&mut command);
        let mut controller = command.spawn().unwrap();
        manager.hears("READY=1");
        manager.hears("WATCHDOG=1");
        manager.hears("WATCHDOG=1");
        terminate(controller.id());
        let before = manager.hears("STOPPING=1");
        assert!(before.iter().all(|said| said == "WATCHDOG=1"), "{before:?}");
        assert!(controller.wait().unwrap().success());
    });
}
