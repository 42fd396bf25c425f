//! Finding runs: keys are looked up among the folders that were walked, never joined into paths.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use expman_storage::catalog::{ExperimentEntry, open_run};
use expman_storage::{Catalog, RunEntry};
use tokio::sync::Mutex;

use crate::blocking::Reads;
use crate::error::{Result, ServeError};

/// A walk is believed for this long …
const FRESH_MIN: Duration = Duration::from_secs(1);
/// … or for this many times what it took, so that walking never takes more than a part of one core.
const FRESH_FACTOR: u32 = 5;

/// The runs below the base folder, as of a moment ago.
#[derive(Debug)]
pub struct Index {
    catalog: Catalog,
    reads: Reads,
    walked: Mutex<Option<Walk>>,
}

#[derive(Debug, Clone)]
struct Walk {
    runs: Arc<Vec<RunEntry>>,
    places: Arc<HashMap<String, PathBuf>>,
    fresh_until: Instant,
}

impl Index {
    /// An index of a folder that may not exist yet.
    pub fn new(base_dir: PathBuf, reads: Reads) -> Self {
        Self {
            catalog: Catalog::new(base_dir),
            reads,
            walked: Mutex::new(None),
        }
    }

    /// Every run, by experiment and name.
    ///
    /// # Errors
    /// When the base folder can't be listed.
    pub async fn runs(&self) -> Result<Arc<Vec<RunEntry>>> {
        Ok(self.walk().await?.runs)
    }

    /// Every experiment.
    ///
    /// # Errors
    /// When the base folder can't be listed.
    pub async fn experiments(&self) -> Result<Vec<ExperimentEntry>> {
        let catalog = self.catalog.clone();
        self.reads
            .run(
                "the list of experiments",
                move || Ok(catalog.experiments()?),
            )
            .await
    }

    /// One run as it stands right now.
    ///
    /// # Errors
    /// When no run has this key.
    pub async fn run(&self, key: &str) -> Result<RunEntry> {
        let root = self.place(key).await?;
        self.reads
            .run(root.display().to_string(), move || Ok(open_run(&root)?))
            .await
    }

    /// The folder of a run.
    ///
    /// # Errors
    /// When no run has this key.
    pub async fn place(&self, key: &str) -> Result<PathBuf> {
        self.walk()
            .await?
            .places
            .get(key)
            .cloned()
            .ok_or(ServeError::NotFound { what: "this run" })
    }

    /// The last walk, or a new one; callers that come meanwhile wait for it instead of walking too.
    async fn walk(&self) -> Result<Walk> {
        let mut walked = self.walked.lock().await;
        if let Some(walk) = walked.as_ref().filter(|w| Instant::now() < w.fresh_until) {
            return Ok(walk.clone());
        }
        let catalog = self.catalog.clone();
        let started = Instant::now();
        let runs = self
            .reads
            .run("the list of runs", move || Ok(catalog.runs(None)?))
            .await?;
        let places = runs
            .iter()
            .map(|run| (run.key.clone(), run.dir.root().to_owned()))
            .collect();
        let fresh_until = Instant::now() + FRESH_MIN.max(started.elapsed() * FRESH_FACTOR);
        let walk = Walk {
            runs: Arc::new(runs),
            places: Arc::new(places),
            fresh_until,
        };
        *walked = Some(walk.clone());
        Ok(walk)
    }
}
