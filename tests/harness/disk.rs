//! Disks of one instance's own: a small one in memory, which can be filled and freed, and one that can be
//! frozen, so that nothing is written any more until it is thawed.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for some copies of a small cluster's data.
const SIZE: &str = "size=1500m";
const BYTES: u64 = 1500 << 20;

/// A disk of its own at some path, for as long as this lives.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
    /// The file that it is in; none: it is in memory.
    image: Option<PathBuf>,
}

/// What a disk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In memory: it can be filled.
    Small,
    /// In a file: it can be frozen.
    Freezable,
}

impl Kind {
    /// Whether this process may mount one: root may, unless it is confined.
    pub fn is_allowed(self) -> bool {
        let probe = tempfile::tempdir().expect("a directory can be made");
        let at = probe.path().join("disk");
        fs::create_dir(&at).expect("a directory can be made");
        let image = self.image(&at);
        let works =
            |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let made = image.as_deref().is_none_or(|image| works(&mut make_file_system(image)));
        let allowed = made && works(&mut mount(&at, image.as_deref()));
        if allowed {
            // Unmounted when it goes.
            drop(Disk { at, image });
        } else {
            println!("not tried: this user may not mount a small disk (root may)");
        }
        allowed
    }

    fn image(self, at: &Path) -> Option<PathBuf> {
        if self == Self::Small {
            return None;
        }
        let image = at.with_extension("disk");
        let file = File::create(&image).expect("a file can be made");
        file.set_len(BYTES).expect("a file takes no room before it is written to");
        Some(image)
    }
}

impl Disk {
    /// Puts what is at `path` on a disk of its own; needs root.
    pub(crate) fn below(path: &Path, kind: Kind) -> Self {
        let was = path.with_extension("was");
        fs::rename(path, &was).expect("a directory can be renamed");
        fs::create_dir(path).expect("a directory can be made");
        let image = kind.image(path);
        if let Some(image) = &image {
            run(&mut make_file_system(image));
        }
        run(&mut mount(path, image.as_deref()));
        let disk = Self { at: path.to_owned(), image };
        let owner = fs::metadata(&was).expect("it is there");
        std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()))
            .expect("a directory has the owner that it had");
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

    /// Holds whoever writes.
    pub fn freeze(&self) {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.at));
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.at));
    }

    /// The same, whether or not they are held: what a test that fails has left.
    pub(crate) fn release(&self) {
        if self.image.is_some() {
            // An error: it is not frozen.
            let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.at).output();
        }
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.release();
        if let Some(image) = &self.image {
            // Gone with its last user; an error leaves it to the directory's end.
            let _ = fs::remove_file(image);
        }
        // Lazily: a process that hangs must not keep it.
        let done = Command::new("umount").arg("--lazy").arg(&self.at).status();
        if !done.is_ok_and(|status| status.success()) {
            println!("{} is still mounted", self.at.display());
        }
    }
}

fn mount(path: &Path, image: Option<&Path>) -> Command {
    let mut command = Command::new("mount");
    match image {
        Some(image) => command.args(["-o", "loop"]).arg(image).arg(path),
        None => command.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(path),
    };
    command
}

fn make_file_system(image: &Path) -> Command {
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F"]).arg(image);
    command
}

fn run(command: &mut Command) {
    let status = command.status().expect("the program is there");
    assert!(status.success(), "{command:?}: {status}");
}
