//! PostgreSQL's programs: those of the installed version, or of the one that is asked for.
//!
//! `DUGONG_TEST_POSTGRES=target/postgres/17/bin cargo nextest run -p dugong-tests` runs every test on
//! those programs; `.ci/versions` gets them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the directory of the programs that every test uses: absolute, or below the workspace.
const CHOSEN: &str = "DUGONG_TEST_POSTGRES";

/// The directory that was asked for; none where it is the system's to say.
pub fn chosen_postgres() -> Option<PathBuf> {
    let named = std::env::var_os(CHOSEN).filter(|name| !name.is_empty())?;
    let path = workspace().join(named);
    let found = fs::canonicalize(&path);
    let bin = found.unwrap_or_else(|error| panic!("{CHOSEN}: {}: {error}", path.display()));
    assert!(
        can_be_run(&bin),
        "{CHOSEN}: the user postgres cannot run what is in {}: name a copy that it can reach",
        bin.display()
    );
    Some(bin)
}

/// The directory of the programs: the one that was asked for, or else Debian's newest.
pub fn postgres_bin() -> PathBuf {
    chosen_postgres().unwrap_or_else(|| {
        let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
        let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
        let paths = versions.map_while(Result::ok).map(|entry| entry.path());
        let newest = paths.max_by_key(|path| number(path)).expect("PostgreSQL is installed");
        newest.join("bin")
    })
}

/// The programs of a version, as `.ci/versions` gets them; none where it has not. They are
/// copied below `folder` where PostgreSQL's user could not reach them.
pub fn postgres_of_version(version: &str, folder: &Path) -> Option<PathBuf> {
    let all = fs::canonicalize(workspace().join("target/postgres")).ok()?;
    let bin = fs::canonicalize(all.join(version).join("bin")).ok()?;
    if can_be_run(&bin) {
        return Some(bin);
    }
    // With the libraries that lie beside it in what was unpacked.
    let inside = bin.strip_prefix(&all).expect("it lies below all of them");
    let unpacked = all.join(inside.components().next().expect("in a directory of its own"));
    let copied = Command::new("cp").arg("-a").arg(&unpacked).arg(folder).status();
    assert!(copied.expect("cp can be run").success(), "{} cannot be copied", unpacked.display());
    Some(folder.join(inside))
}

/// Whether PostgreSQL's user can run what is there.
fn can_be_run(bin: &Path) -> bool {
    let postgres = bin.join("postgres");
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]);
        command.arg(postgres);
        command
    } else {
        Command::new(postgres)
    };
    command.arg("--version").output().is_ok_and(|output| output.status.success())
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
