//! Policies at the edge: where their documents come from, which set is in force, and what a decision is for a caller.
//!
//! The set in force is replaced whole, by one pointer; a request reads it with one atomic load. Documents that are
//! wrong change nothing: the set before stays, and why is said in the log, in a metric and in `/readyz?verbose`. What
//! policies mean is `meridian_policies::rules`'.

pub mod files;
pub mod judge;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use meridian_policies::rules::{Finding, Findings, RuleSet, Source};
use tokio_util::sync::CancellationToken;

use crate::{config, telemetry::policies::PolicyMetrics};

/// Between two looks at the folder. A reader of a few small files each second is not seen in any profile.
const LOOK_EACH: Duration = Duration::from_secs(1);

/// The policies in force, and where they come from.
#[derive(Debug)]
pub struct Policies {
    current: ArcSwap<RuleSet>,
    folder: Option<PathBuf>,
    /// What was read last, and why it is not in force, if it is not.
    seen: Mutex<Seen>,
    /// Counts what rules do.
    pub metrics: PolicyMetrics,
}

#[derive(Debug, Default)]
struct Seen {
    sources: Vec<Source>,
    broken: Option<String>,
}

/// What a look at the folder came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// The folder holds what it held.
    Same,
    /// It holds something new, which is in force.
    Applied,
    /// It holds something new that is wrong; what was in force still is.
    Broken(String),
}

/// Reads and compiles the configuration's policies.
///
/// # Errors
/// Everything that is wrong with them; a folder that cannot be read is one fault.
pub fn load(config: &config::Policies) -> Result<RuleSet, Findings> {
    config.dir.as_ref().map_or_else(|| Ok(RuleSet::default()), |dir| RuleSet::load(&read(dir)?))
}

fn read(dir: &std::path::Path) -> Result<Vec<Source>, Findings> {
    files::read(dir).map_err(|why| Findings(vec![Finding::unreadable(&dir.display().to_string(), &why.to_string())]))
}

impl Policies {
    /// The policies of the configuration.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn start(config: &config::Policies, metrics: PolicyMetrics) -> Result<Arc<Self>, Findings> {
        let sources = config.dir.as_deref().map_or_else(|| Ok(Vec::new()), read)?;
        let set = RuleSet::load(&sources)?;
        let seen = Mutex::new(Seen { sources, broken: None });
        Ok(Arc::new(Self { current: ArcSwap::from_pointee(set), folder: config.dir.clone(), seen, metrics }))
    }

    /// The set in force, for one look.
    pub fn load(&self) -> Guard<Arc<RuleSet>> {
        self.current.load()
    }

    /// Why what the folder holds is not in force, if it is not.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).broken.clone()
    }

    /// Looks at the folder and takes what is new in it.
    pub fn look(&self) -> Look {
        let Some(folder) = &self.folder else { return Look::Same };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let made = match read(folder) {
            Ok(sources) if sources == seen.sources => return Look::Same,
            Ok(sources) => {
                let made = RuleSet::load(&sources);
                seen.sources = sources;
                made
            }
            Err(findings) => Err(findings),
        };
        match made {
            Ok(set) => {
                self.current.store(Arc::new(set));
                seen.broken = None;
                self.metrics.broken(false);
                Look::Applied
            }
            Err(findings) => {
                let why = findings.to_string();
                self.metrics.broken(true);
                if seen.broken.as_ref() == Some(&why) {
                    return Look::Same;
                }
                seen.broken = Some(why.clone());
                Look::Broken(why)
            }
        }
    }

    /// Follows the folder until `stop`. Files are read and compiled off the threads that serve requests.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        if self.folder.is_none() {
            return;
        }
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EACH) => {}
            }
            let policies = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || policies.look()).await {
                Ok(Look::Applied) => tracing::info!("the policies of the folder are in force"),
                Ok(Look::Broken(why)) => {
                    tracing::error!(%why, "the policies of the folder are wrong; those before stay in force");
                }
                Ok(Look::Same) => {}
                Err(error) => tracing::error!(%error, "the look at the policies' folder ended early"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(expression: &str) -> String {
        format!("name: p\nscope: platform\nrules:\n- id: r\n  expression: {expression}\n")
    }

    #[test]
    fn a_folder_is_followed_and_a_broken_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.yaml");
        std::fs::write(&file, document("object.name != 'a'")).unwrap();
        std::fs::write(folder.path().join(".p.yaml.swp"), "[").unwrap();
        let config = config::Policies { dir: Some(folder.path().to_owned()) };
        let policies = Policies::start(&config, PolicyMetrics::register(&crate::telemetry::Metrics::new())).unwrap();
        let first = policies.load().clone();
        assert_eq!(policies.look(), Look::Same);
        std::fs::write(&file, document("object.nme != 'a'")).unwrap();
        let Look::Broken(why) = policies.look() else { panic!("it is taken") };
        assert!(why.contains("p.yaml:5:22") && why.contains("did you mean `name`?"), "{why}");
        assert_eq!(policies.look(), Look::Same, "it is said once");
        assert!(Arc::ptr_eq(&first, &policies.load()), "what was in force still is");
        assert_eq!(policies.broken(), Some(why));
        std::fs::write(&file, document("object.name != 'b'")).unwrap();
        assert_eq!(policies.look(), Look::Applied);
        assert_eq!(policies.broken(), None);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(policies.look(), Look::Applied);
        assert!(policies.load().is_empty());
    }
}
