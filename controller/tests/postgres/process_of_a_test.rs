//! As whom, and where, a test runs: a server does not run as root.

use std::process::Command;
use std::time::Duration;

/// Runs a test as it is, or, as root, in a process of the user `postgres`.
pub(crate) fn as_postgres(test: impl Future<Output = ()>) {
    if rustix::process::geteuid().is_root() {
        let status = again(&[]).status().unwrap();
        assert!(status.success(), "the test failed as the user postgres: {status}");
        return;
    }
    // What the supervisor says, for whoever reads of a test that failed; another test may have come
    // first, in the same process.
    let _ = tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).try_init();
    // Panics of the task that owns the server must not go unnoticed.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(test);
    runtime.shutdown_timeout(Duration::from_secs(10));
}

/// As root: runs a test as the user `postgres` in a PID namespace that was entered from outside, as
/// a container's command is. Nobody else may make one; neither may a root without that right.
#[expect(clippy::print_stdout, reason = "says why nothing was tested")]
pub(crate) fn as_postgres_in_a_container(test: impl Future<Output = ()>) {
    if !rustix::process::geteuid().is_root() {
        return as_postgres(test);
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        command
    };
    if !unshare().arg("true").status().unwrap().success() {
        println!("not tested: no PID namespace can be made here");
        return;
    }
    let test = again(&[]);
    let status = unshare().arg(test.get_program()).args(test.get_args()).status().unwrap();
    assert!(status.success(), "the test failed in a container: {status}");
}

/// This test again, in a process of its own.
pub(crate) fn again(environment: &[(&str, &str)]) -> Command {
    // The test's name, unless it runs on the main thread of such a process.
    let current = std::thread::current();
    let argument = std::env::args().skip_while(|argument| argument != "--exact").nth(1);
    let name = argument.or_else(|| current.name().map(str::to_owned)).unwrap();
    let exe = std::env::current_exe().unwrap();
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]);
        command.arg(exe);
        command
    } else {
        // Whatever the path of it: this user may not reach it, but runs it already.
        Command::new("/proc/self/exe")
    };
    command.args(["--exact", &name, "--nocapture", "--test-threads=1"]).current_dir("/tmp");
    command.envs(environment.iter().copied());
    command
}
