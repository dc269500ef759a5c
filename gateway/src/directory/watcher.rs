//! Watches the folder of files and has the directory follow it.
//!
//! A change is seen within a second and applied when the folder looks the same twice in a row, and again when it has been
//! read, so that a file that is being written is not taken for what it will be. What is broken changes nothing: everything goes on as it was, and why
//! is said in the log, in a metric and in `/readyz?verbose` until it is mended.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    Directory,
    declared::Files,
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

/// How often the folder is read at the start until it is at rest: for as long as somebody writes files into it.
const FIRST_TRIES: u32 = 10;

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
    /// As it was when it was last read; none when it could not be looked at since.
    look: Option<Look>,
    /// As it was at the last look, if it has changed since.
    changed: Option<Look>,
    digest: [u8; 32],
}

/// What a folder declares at the start, and how it looked.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) files: Files,
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
    for _ in 0..FIRST_TRIES {
        let read = folder.clone();
        if let Some(texts) = blocking(move || files::read(&read)).await? {
            let files = files::parse(&texts, &Known::of(config))?;
            return Ok(Some(First { files, folder, texts }));
        }
        tokio::time::sleep(LOOK_EACH).await;
    }
    Err(files::restless(&folder))
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
        let seen = Seen { digest: first.digest(), look: Some(first.texts.look), changed: None };
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
        let done = self.take_in(&mut seen).await.and_then(|done| done.ok_or_else(|| files::restless(&self.folder)));
        self.told(&done);
        done
    }

    /// Reads the folder and applies it; `None` when it is not at rest.
    async fn take_in(&self, seen: &mut Seen) -> Result<Option<Vec<Change>>, Broken> {
        let folder = self.folder.clone();
        let Some(texts) = blocking(move || files::read(&folder)).await? else { return Ok(None) };
        (seen.look, seen.changed) = (Some(texts.look.clone()), None);
        let digest = texts.digest();
        if digest == seen.digest {
            return Ok(Some(Vec::new()));
        }
        let changes = self.directory.set_files(files::parse(&texts, &self.known)?)?;
        seen.digest = digest;
        self.audit.reloaded(&self.folder, &digest, &changes);
        Ok(Some(changes))
    }

    fn told(&self, done: &Result<Vec<Change>, Broken>) {
        let outcome = match done {
            Ok(changes) if changes.is_empty() => "unchanged",
            Ok(changes) => {
                for change in changes.iter().take(LOGGED_MAX) {
                    tracing::info!(%change, "the directory changes");
                }
                for policy in self.directory.load().idle_policies().take(LOGGED_MAX) {
                    tracing::warn!(%policy, "nobody declares the policy's tenant: it judges nothing");
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
        let look = match blocking(move || files::look(&folder)).await {
            Ok(look) => look,
            Err(broken) => {
                // Read again as soon as it can be: only that tells whether all is well.
                if seen.look.take().is_some() {
                    self.told(&Err(broken.clone()));
                }
                return Err(broken);
            }
        };
        if seen.look.as_ref() == Some(&look) {
            seen.changed = None;
            return Ok(());
        }
        if seen.changed.as_ref() != Some(&look) {
            seen.changed = Some(look);
            return Ok(());
        }
        let Some(done) = self.take_in(&mut seen).await.transpose() else {
            seen.changed = None;
            return Ok(());
        };
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
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{clock::Clock, directory::Declared};

    const TENANT: &str = "{apiVersion: meridian.dev/v1, kind: Tenant, metadata: {name: acme}}";

    async fn watched(folder: &Path) -> (Arc<Directory>, Arc<Watcher>) {
        let text = format!(
            "[deployment]\nid = \"test\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n[ledger]\npath = \"x\"\n\
             [directory]\npath = \"{}\"\n[[backends]]\nid = \"gz\"\nadapter = \"tencent-eksci\"\n\
             region = \"ap-guangzhou\"\n",
            folder.display()
        );
        let config = Config::parse(&text, "test.toml", &|_| Vec::new()).unwrap();
        let directory = Directory::new(Declared::of(&config), Clock::system(), None);
        let mut first = first(&config).await.unwrap().unwrap();
        directory.set_files(std::mem::take(&mut first.files)).unwrap();
        let watcher = Watcher::new(&config, Arc::clone(&directory), first, (CoreMetrics::detached(), Audit::off()));
        (directory, watcher)
    }

    #[tokio::test]
    async fn a_folder_that_can_be_looked_at_again_is_broken_no_more() {
        let home = tempfile::tempdir().unwrap();
        let (folder, away) = (home.path().join("tenants.d"), home.path().join("away"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("acme.yaml"), TENANT).unwrap();
        let (directory, watcher) = watched(&folder).await;
        let metric = || watcher.metrics.directory.is_broken();
        fs::rename(&folder, &away).unwrap();
        for _ in 0..3 {
            assert!(watcher.look().await.is_err());
        }
        assert!(watcher.broken().is_some() && metric());
        assert_eq!(directory.load().tenants().count(), 1, "everything stays as it was");
        fs::rename(&away, &folder).unwrap();
        for _ in 0..2 {
            watcher.look().await.unwrap();
        }
        assert_eq!((watcher.broken(), metric()), (None, false));
    }
}
