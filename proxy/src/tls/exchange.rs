//! What is made of files, and made again when they are exchanged.
//!
//! **Invariant:** files that are not good change nothing: what was made before stays.

use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dugong_trust::{Mark, mark};
use tokio::sync::watch;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// Makes it, and returns what always has the newest; and the duty of looking, for ever, whether
/// the files were exchanged.
///
/// # Errors
///
/// Those of `make`.
pub fn exchanged<T, E: Display>(
    files: Vec<PathBuf>,
    make: impl Fn() -> Result<T, E> + Send + 'static,
) -> Result<(watch::Receiver<Arc<T>>, impl Future<Output = ()> + Send + 'static), E>
where
    T: Send + Sync + 'static,
{
    // Before they are read: what changes meanwhile is read again.
    let mut seen = marks(&files);
    let (served, newest) = watch::channel(Arc::new(make()?));
    let duty = async move {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            let now = marks(&files);
            if now == seen {
                continue;
            }
            seen = now;
            let named: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
            let named = named.join(", ");
            match make() {
                Ok(made) => {
                    served.send_replace(Arc::new(made));
                    tracing::info!("exchanged files are in use from now on: {named}");
                }
                Err(error) => tracing::warn!(
                    "exchanged files are not taken, and what they held before stays in use: \
                     {error} ({named})"
                ),
            }
        }
    };
    Ok((newest, duty))
}

fn marks(files: &[PathBuf]) -> Vec<Mark> {
    files.iter().map(|path| mark(path)).collect()
}
