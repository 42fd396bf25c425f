//! Lines of tables that were made, each for as long as its run's files stay as they are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use expman_storage::RunEntry;
use expman_storage::stamp::FileStamp;

use crate::question::Question;
use crate::routes::sparklines::Spark;

/// Lines kept: a page of runs for several metrics, a few times over.
const LINES_MAX: usize = 4096;

/// What a line is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id {
    run: String,
    question: String,
    files: Vec<FileStamp>,
}

impl Id {
    /// What a line is known by now.
    pub fn of(run: &RunEntry, question: &Question) -> Self {
        let logs = run.dir.wals().unwrap_or_default();
        let mut paths = vec![run.dir.metrics(), run.dir.meta()];
        paths.extend(logs.into_iter().map(|log| log.path));
        paths.push(run.dir.root().to_owned());
        Self {
            run: run.key.clone(),
            question: format!("{:?} {}", question.keys, question.max),
            files: paths
                .iter()
                .filter_map(|path| FileStamp::of(path))
                .collect(),
        }
    }
}

type Kept = VecDeque<(Id, Option<Spark>)>;

/// The latest lines.
#[derive(Debug, Clone, Default)]
pub struct Sparks {
    kept: Arc<Mutex<Kept>>,
}

impl Sparks {
    /// A line that was made of the same files.
    #[expect(
        clippy::option_option,
        reason = "a run without the metric is known, too"
    )]
    pub fn get(&self, id: &Id) -> Option<Option<Spark>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().find(|(known, _)| known == id);
        known.map(|(_, spark)| spark.clone())
    }

    /// Keeps a line in place of the run's former one.
    pub fn put(&self, id: Id, spark: Option<Spark>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| (&known.run, &known.question) != (&id.run, &id.question));
        kept.push_back((id, spark));
        while kept.len() > LINES_MAX {
            kept.pop_front();
        }
    }
}
