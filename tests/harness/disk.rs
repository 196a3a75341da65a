//! A small disk in memory, which can be filled and freed.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for some copies of a small cluster's data.
const SIZE: &str = "size=1500m";

/// A disk of its own at some path, for as long as this lives.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Whether this process may mount one: root may, unless it is confined.
    pub fn is_allowed() -> bool {
        let probe = tempfile::tempdir().expect("a directory can be made");
        let allowed = mount(probe.path()).output().is_ok_and(|output| output.status.success());
        if allowed {
            // Unmounted when it goes.
            drop(Self { at: probe.path().to_owned() });
        } else {
            println!("not tried: this user may not mount a small disk (root may)");
        }
        allowed
    }

    /// Puts what is at `path` on a disk of its own; needs root.
    pub(crate) fn below(path: &Path) -> Self {
        let was = path.with_extension("was");
        fs::rename(path, &was).expect("a directory can be renamed");
        fs::create_dir(path).expect("a directory can be made");
        run(&mut mount(path));
        let disk = Self { at: path.to_owned() };
        run(Command::new("cp").arg("-a").arg(was.join(".")).arg(path));
        fs::remove_dir_all(&was).expect("what was copied can be removed");
        disk
    }

    /// Leaves that much room and no more, in megabytes.
    pub fn fill_up_to(&self, left: u64) {
        let disk = rustix::fs::statvfs(&self.at).expect("the disk is there");
        let free = disk.f_bavail.saturating_mul(disk.f_frsize) >> 20;
        let mut file = File::create(self.filler()).expect("a file can be made");
        let block = vec![0; 1 << 20];
        for _ in left..free {
            file.write_all(&block).expect("there was room");
        }
    }

    /// Leaves no room at all.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("a file can be made");
        for size in [1 << 20, 1 << 12] {
            let block = vec![0; size];
            loop {
                match file.write_all(&block) {
                    Ok(()) => (),
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{}: {error}", self.filler().display()),
                }
            }
        }
    }

    /// Gives the room back.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("the disk was filled");
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that hangs must not keep it.
        let done = Command::new("umount").arg("--lazy").arg(&self.at).status();
        if !done.is_ok_and(|status| status.success()) {
            println!("{} is still mounted", self.at.display());
        }
    }
}

fn mount(path: &Path) -> Command {
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(path);
    command
}

fn run(command: &mut Command) {
    let status = command.status().expect("the program is there");
    assert!(status.success(), "{command:?}: {status}");
}
