//! Watches the folder of files and has the directory follow it.
//!
//! A change is seen within a second and applied when the folder looks the same twice in a row, so that a file that is
//! being written is not taken for what it will be. What is broken changes nothing: everything goes on as it was, and why
//! is said in the log, in a metric and in `/readyz?verbose` until it is mended.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    Directory,
    declared::Tenants,
    diff::Change,
    files::{self, Broken, Look, Texts},
};
use crate::{
    audit::Audit,
    config::{Config, Known},
    telemetry::{core::CoreMetrics, seldom::Seldom},
};

/// Between two looks at the folder: a person who has saved a file looks for the effect no sooner.
const LOOK_EACH: Duration = Duration::from_secs(1);

/// Lines of a change that are logged; the rest is counted.
const LOGGED_MAX: usize = 50;

/// Follows a folder.
#[derive(Debug)]
pub struct Watcher {
    directory: Arc<Directory>,
    folder: PathBuf,
    known: Known,
    metrics: Arc<CoreMetrics>,
    audit: Audit,
    /// One reload at a time.
    seen: tokio::sync::Mutex<Seen>,
    /// What is wrong with the folder as it is.
    broken: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// As it was when it was last read.
    look: Look,
    /// As it was at the last look, if it has changed since.
    changed: Option<Look>,
    digest: [u8; 32],
}

/// What a folder declares at the start, and how it looked.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) tenants: Tenants,
    folder: PathBuf,
    texts: Texts,
}

impl First {
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn digest(&self) -> [u8; 32] {
        self.texts.digest()
    }
}

/// Reads the configured folder, if there is one.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) async fn first(config: &Config) -> Result<Option<First>, Broken> {
    let Some(folder) = config.directory.path.clone() else { return Ok(None) };
    let read = folder.clone();
    let texts = blocking(move || files::read(&read)).await?;
    let tenants = files::parse(&texts, &Known::of(config))?;
    Ok(Some(First { tenants, folder, texts }))
}

/// Runs what blocks away from the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Broken> + Send + 'static) -> Result<T, Broken> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Broken::of("the folder", 1, 1, e.to_string(), "try again")))
}

impl Watcher {
    pub(crate) fn new(
        config: &Config,
        directory: Arc<Directory>,
        first: First,
        (metrics, audit): (Arc<CoreMetrics>, Audit),
    ) -> Arc<Self> {
        let seen = Seen { digest: first.digest(), look: first.texts.look, changed: None };
        let (known, folder, broken) = (Known::of(config), first.folder, Mutex::default());
        let seen = tokio::sync::Mutex::new(seen);
        Arc::new(Self { directory, folder, known, metrics, audit, seen, broken })
    }

    /// What is wrong with the folder as it is, if anything; what was declared before is in force then.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the folder and applies it, whether or not it looks changed. Returns what changes by it.
    ///
    /// # Errors
    /// Everything that is wrong with it; nothing has changed then.
    ///
    /// # Cancel safety
    /// It is applied whole or not at all.
    pub async fn reload(&self) -> Result<Vec<Change>, Broken> {
        let mut seen = self.seen.lock().await;
        let done = self.take_in(&mut seen).await;
        self.told(&done);
        done
    }

    async fn take_in(&self, seen: &mut Seen) -> Result<Vec<Change>, Broken> {
        let folder = self.folder.clone();
        let texts = blocking(move || files::read(&folder)).await?;
        (seen.look, seen.changed) = (texts.look.clone(), None);
        let digest = texts.digest();
        if digest == seen.digest {
            return Ok(Vec::new());
        }
        let changes = self.directory.set_files(files::parse(&texts, &self.known)?)?;
        seen.digest = digest;
        self.audit.reloaded(&self.folder, &digest, &changes);
        Ok(changes)
    }

    fn told(&self, done: &Result<Vec<Change>, Broken>) {
        let outcome = match done {
            Ok(changes) if changes.is_empty() => "unchanged",
            Ok(changes) => {
                for change in changes.iter().take(LOGGED_MAX) {
                    tracing::info!(%change, "the directory changes");
                }
                tracing::info!(changes = changes.len(), folder = %self.folder.display(), "the directory was reloaded");
                "applied"
            }
            Err(_) => "broken",
        };
        let broken = done.as_ref().err().map(ToString::to_string);
        self.metrics.directory.reload(outcome, broken.is_some());
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = broken;
    }

    /// One look; reads the folder when it has changed and is at rest.
    async fn look(&self) -> Result<(), Broken> {
        let mut seen = self.seen.lock().await;
        let folder = self.folder.clone();
        let look = blocking(move || files::look(&folder)).await?;
        if look == seen.look {
            seen.changed = None;
            return Ok(());
        }
        if seen.changed.as_ref() != Some(&look) {
            seen.changed = Some(look);
            return Ok(());
        }
        let done = self.take_in(&mut seen).await;
        self.told(&done);
        done.map(drop)
    }

    /// Follows the folder until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut seldom = Seldom::default();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EACH) => {}
            }
            match self.look().await {
                Ok(()) => {}
                Err(broken) if seldom.is_due(&broken) => {
                    let folder = self.folder.display();
                    tracing::error!(%folder, %broken, "the folder is broken; everything stays as it was");
                    *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(broken.to_string());
                }
                Err(_) => {}
            }
        }
    }
}
