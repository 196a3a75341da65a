//! The ends of the logs, for whoever asks why.

use std::fs;
use std::path::{Path, PathBuf};

use crate::say::Voice;

/// Lines of each log.
const LINES: usize = 15;

/// Shows the end of every log of every host.
pub fn show_ends(root: &Path, voice: Voice) {
    for log in logs(root) {
        let Ok(content) = fs::read(&log) else { continue };
        let text = String::from_utf8_lossy(&content);
        let mut lines: Vec<&str> = text.lines().collect();
        // A service that ends again and again for one reason says it once.
        lines.dedup();
        voice.say(format!("the end of {} ({} lines):", log.display(), lines.len()));
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            voice.say(format!("    {line}"));
        }
    }
}

/// Of controllers and proxies: what etcd says is long, and seldom the reason.
fn logs(root: &Path) -> Vec<PathBuf> {
    let Ok(hosts) = fs::read_dir(root) else { return Vec::new() };
    let names = ["controller.log", "proxy.log"];
    let all = hosts.flatten().flat_map(|host| names.map(|name| host.path().join(name)));
    let mut found: Vec<PathBuf> = all.filter(|path| path.exists()).collect();
    found.sort_unstable();
    found
}
