//! Logging: every call ends in one record pushed into the ring.

use std::path::Path;

use expman_model::limits::{KEY_BYTES_MAX, POINTS_PER_CALL_MAX, RECORD_BYTES_MAX};
use expman_model::record::Stream;
use expman_model::{Level, Param, Point, RecordBody, RunStatus, Value};

use super::{OnFull, Run};
use crate::error::{MeshError, Result};
use crate::ring::{Refusal, encode};

/// Where a message comes from; what is not known is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The logger's name.
    pub logger: String,
    /// The source file.
    pub file: String,
    /// The line in it, from 1.
    pub line: u32,
}

impl Run {
    /// Takes in one encoded record; this is what every `log_*` ends in.
    ///
    /// # Errors
    /// When it was refused; it is counted already.
    pub fn push(&self, record: &mut [u8]) -> Result<u64, Refusal> {
        if record.len() > RECORD_BYTES_MAX {
            self.ring.refuse("record too large", 1);
            return Err(Refusal::TooLarge);
        }
        let patience = match self.on_full {
            OnFull::Drop => None,
            OnFull::Block(patience) => Some(patience),
        };
        self.ring.push(record, patience)
    }

    /// [`Run::push`] for when nothing stands in the way: `None`, and nothing is done or counted, when the record can't
    /// be taken in at once.
    #[inline]
    pub fn push_at_once(&self, record: &mut [u8]) -> Option<u64> {
        if record.len() > RECORD_BYTES_MAX {
            return None;
        }
        self.ring.push_at_once(record)
    }

    /// Whether a full queue makes callers wait.
    #[must_use]
    pub const fn may_wait(&self) -> bool {
        matches!(self.on_full, OnFull::Block(_))
    }

    /// Counts values or records that were refused.
    pub fn refuse(&self, reason: &str, count: u64) {
        self.ring.refuse(reason, count);
    }

    fn log(&self, body: &RecordBody) -> Result<u64, Refusal> {
        if !self.gate.passes(body) {
            return Ok(0);
        }
        self.push(&mut encode(body))
    }

    /// Logs metrics of one step; names and values are stored exactly.
    ///
    /// Empty or over-long names are counted as refused and left out.
    ///
    /// # Errors
    /// When the record was refused; it is counted already, so the result may be ignored.
    pub fn log_metrics<K: Into<String>, V: Into<Value>>(
        &self,
        metrics: impl IntoIterator<Item = (K, V)>,
        step: Option<i64>,
    ) -> Result<u64, Refusal> {
        let mut points: Vec<Point> = metrics
            .into_iter()
            .map(|(k, v)| Point::new(k, v.into()))
            .collect();
        let given = points.len();
        points.retain(|p| !p.key.is_empty() && p.key.len() <= KEY_BYTES_MAX);
        points.truncate(POINTS_PER_CALL_MAX);
        if points.len() < given {
            self.ring
                .refuse("bad metric name", (given - points.len()) as u64);
        }
        self.log(&RecordBody::Metrics { step, points })
    }

    /// Sets a scalar: only its latest value is kept, in `run.yaml`.
    ///
    /// # Errors
    /// As [`Run::log_metrics`].
    pub fn log_scalar(
        &self,
        key: impl Into<String>,
        value: impl Into<Value>,
    ) -> Result<u64, Refusal> {
        self.log(&RecordBody::Scalar(Point::new(key, value.into())))
    }

    /// Merges parameters into `config.yaml`.
    ///
    /// # Errors
    /// As [`Run::log_metrics`].
    pub fn log_params(&self, params: Vec<(String, Param)>) -> Result<u64, Refusal> {
        self.log(&RecordBody::Params(Param::Map(params)))
    }

    /// Writes a message to `run.log`.
    ///
    /// # Errors
    /// As [`Run::log_metrics`].
    pub fn log_message(&self, level: Level, text: impl Into<String>) -> Result<u64, Refusal> {
        self.log_from(level, Origin::default(), text)
    }

    /// [`Run::log_message`], with who said it and where; a named logger's record is left out where the run's
    /// [`Run::forwarding`] says so, which gives number 0.
    ///
    /// # Errors
    /// As [`Run::log_metrics`].
    pub fn log_from(
        &self,
        level: Level,
        source: Origin,
        text: impl Into<String>,
    ) -> Result<u64, Refusal> {
        self.log(&RecordBody::Message {
            level,
            logger: source.logger,
            file: source.file,
            line: source.line,
            text: text.into(),
        })
    }

    /// Takes in output that was captured elsewhere, split into lines like that of the descriptors.
    ///
    /// `may_wait` lets it wait a moment for room in a full queue; what finds none is counted as left out.
    /// Nothing happens once the run is closed.
    pub fn write_console(&self, stream: Stream, bytes: &[u8], may_wait: bool) {
        if self.is_mine() {
            self.handed.hear(stream, bytes, may_wait);
        }
    }

    /// Says why this rank fails; [`Run::close`] should follow with [`RunStatus::Failed`].
    ///
    /// # Errors
    /// As [`Run::log_metrics`].
    pub fn log_failure(
        &self,
        message: impl Into<String>,
        traceback: impl Into<String>,
    ) -> Result<u64, Refusal> {
        self.log(&RecordBody::Outcome {
            status: RunStatus::Failed,
            message: message.into(),
            traceback: traceback.into(),
        })
    }

    /// Copies a file into the run's `artifacts/` and records it; the caller waits for the copy.
    ///
    /// # Errors
    /// When the name would leave the folder or is taken by other content, or the file can't be read or written.
    pub fn save_artifact(&self, source: &Path, name: &str) -> Result<()> {
        for saved in expman_storage::artifact::save(&self.dir, source, name)? {
            let body = RecordBody::Artifact {
                name: saved.name,
                size: saved.size,
                hash: saved.hash,
            };
            self.log(&body).map_err(|_refused| MeshError::Closed)?;
        }
        Ok(())
    }
}
