//! A process's handle on its run: what the Python face and Rust programs call.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use expman_model::limits::{
    BATCH_AGE, BATCH_BYTES, CLOSE_TIMEOUT, FLUSH_TIMEOUT, JOIN_TIMEOUT, KEY_BYTES_MAX,
    OUTBOX_BYTES, POINTS_PER_CALL_MAX, RECORD_BYTES_MAX, RING_BYTES, SPOOL_BYTES,
};
use expman_model::{
    FlushReport, FlushScope, Incarnation, Level, Param, Point, RankOutcome, RankOutcomeState,
    RecordBody, RunId, RunMeta, RunStatus, Value, Version,
};
use expman_storage::RunDir;
use ractor::{Actor, ActorRef};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use crate::capture::Capture;
use crate::error::{MeshError, Result};
use crate::forward_actor::{ForwardActor, ForwardArgs, ForwardMsg, ForwardStats, watch_ring};
use crate::join::{Joiner, OwnerMode, keep_link};
use crate::link::frame::{FlushRequest, Hello, PROTOCOL};
use crate::outbox::Outbox;
use crate::owner::OwnerSpec;
use crate::ring::{Refusal, Ring, RingStats, encode};
use crate::{host, naming, runtime};

/// What happens when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFull {
    /// The call returns at once; the record becomes part of a counted gap.
    #[default]
    Drop,
    /// The call waits for room, at most this long.
    Block(Duration),
}

/// How to join or make a run.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The experiment, a folder below `base_dir`.
    pub experiment: String,
    /// The run, a folder below the experiment; by default the local time.
    pub run_name: Option<String>,
    /// Where experiments are kept.
    pub base_dir: PathBuf,
    /// This process's rank; by default 0 for the first process, then the next free one.
    pub rank: Option<u32>,
    /// Number of ranks of the launch, where known.
    pub world_size: Option<u32>,
    /// Equal in all processes of one launch; by default random, so that the process is alone.
    pub launch_key: Option<String>,
    /// Joins a run of this name even if another launch made it.
    pub resume: bool,
    /// Where the run's owner lives.
    pub owner: OwnerMode,
    /// What a new run's record says of its origin.
    pub origin: RunMeta,
    /// When the queue is full.
    pub on_full: OnFull,
    /// Captures descriptors 1 and 2.
    pub capture: bool,
    /// How long records are gathered before they are sent.
    pub batch_age: Duration,
    /// Deadline of joining.
    pub timeout: Duration,
}

impl RunConfig {
    /// A run of this experiment, alone, with its owner in this process.
    #[must_use]
    pub fn new(experiment: impl Into<String>) -> Self {
        Self {
            experiment: experiment.into(),
            run_name: None,
            base_dir: PathBuf::from("experiments"),
            rank: None,
            world_size: None,
            launch_key: None,
            resume: false,
            owner: OwnerMode::InProcess,
            origin: RunMeta {
                language: Some("rust".to_owned()),
                command: std::env::args().collect(),
                ..RunMeta::default()
            },
            on_full: OnFull::Drop,
            capture: false,
            batch_age: BATCH_AGE,
            timeout: JOIN_TIMEOUT,
        }
    }

    /// Keeps experiments in this folder.
    #[must_use]
    pub fn base_dir(mut self, base_dir: impl Into<PathBuf>) -> Self {
        self.base_dir = base_dir.into();
        self
    }
}

/// What lets a child process join the run of its parent, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunHandle {
    /// The run's folder.
    pub run_dir: PathBuf,
    /// See [`RunConfig::launch_key`].
    pub launch_key: String,
}

/// Options of a flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlushOptions {
    /// Who must be durable.
    pub scope: FlushScope,
    /// Deadline.
    pub timeout: Duration,
    /// Also bring everything into `metrics.parquet`.
    pub publish: bool,
    /// A name for this cut.
    pub tag: Option<String>,
}

impl Default for FlushOptions {
    fn default() -> Self {
        Self {
            scope: FlushScope::Run,
            timeout: FLUSH_TIMEOUT,
            publish: false,
            tag: None,
        }
    }
}

/// Counts of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunStats {
    /// The queue.
    pub ring: RingStats,
    /// What is behind it.
    pub forward: ForwardStats,
}

/// A process's handle on its run. Cheap to share; [`Run::close`] or the last drop ends it.
#[derive(Debug)]
pub struct Run {
    runtime: &'static Runtime,
    ring: Arc<Ring>,
    forward: ActorRef<ForwardMsg>,
    stats: watch::Receiver<ForwardStats>,
    capture: Option<Arc<Capture>>,
    dir: RunDir,
    name: String,
    id: RunId,
    rank: u32,
    attempt: u32,
    world_size: Option<u32>,
    launch_key: String,
    on_full: OnFull,
    next_flush: AtomicU64,
    closed: AtomicBool,
    close_result: Mutex<Option<bool>>,
    pid: u32,
}

impl Run {
    /// Joins the run, or makes it, and waits until its owner knows this process.
    ///
    /// # Errors
    /// When a name is not allowed, the folder can't be written, the run belongs to another launch, or nobody answers in time.
    pub fn open(config: RunConfig) -> Result<Self> {
        let place = naming::place(
            &config.base_dir,
            &config.experiment,
            config.run_name.as_deref(),
            config.launch_key.as_deref(),
        )?;
        let launch_key = config
            .launch_key
            .clone()
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        Self::join(config, place.dir, place.name, launch_key)
    }

    /// Joins the run of a parent process; the handle wins over the names in `config`.
    ///
    /// # Errors
    /// As [`Run::open`].
    pub fn open_handle(config: RunConfig, handle: &RunHandle) -> Result<Self> {
        let name = handle
            .run_dir
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        Self::join(
            config,
            RunDir::at(&handle.run_dir),
            name,
            handle.launch_key.clone(),
        )
    }

    fn join(config: RunConfig, dir: RunDir, name: String, launch_key: String) -> Result<Self> {
        let runtime = runtime::current()?;
        let ring = Arc::new(Ring::new(RING_BYTES, BATCH_BYTES));
        let host = host::name();
        let mut seed = RunMeta {
            name: name.clone(),
            experiment: config.experiment,
            ..config.origin
        };
        seed.launch_key = Some(launch_key.clone());
        seed.world_size = config.world_size;
        seed.host.get_or_insert_with(|| host.clone());
        let hello = Hello {
            protocol: PROTOCOL,
            launch_key: launch_key.clone(),
            resume: config.resume,
            rank: config.rank,
            world_size: config.world_size,
            incarnation: Incarnation::generate(),
            host,
            pid: std::process::id(),
        };
        let capture = if config.capture {
            Some(Arc::new(Capture::start(Arc::clone(&ring))?))
        } else {
            None
        };
        let (stats_tell, stats) = watch::channel(ForwardStats::default());
        let outbox = Outbox::new(OUTBOX_BYTES, dir.hidden(), SPOOL_BYTES);
        let args = ForwardArgs {
            ring: Arc::clone(&ring),
            outbox,
            capture: capture.clone(),
            stats: stats_tell,
        };
        let joiner = Joiner {
            spec: OwnerSpec {
                run_dir: dir.root().to_owned(),
                seed,
            },
            dir: dir.clone(),
            owner: config.owner,
            hello,
        };
        let (forward, welcome) = runtime.block_on(async {
            let (forward, _) = Actor::spawn(None, ForwardActor, args)
                .await
                .map_err(|e| MeshError::Actor(e.to_string()))?;
            tokio::spawn(watch_ring(
                Arc::clone(&ring),
                forward.clone(),
                config.batch_age,
            ));
            let (first, joined) = oneshot::channel();
            tokio::spawn(keep_link(joiner, forward.clone(), config.timeout, first));
            let welcome = joined.await.unwrap_or_else(|_gone| Err(MeshError::Closed));
            if welcome.is_err() {
                forward
                    .drain()
                    .map_err(|e| MeshError::Actor(e.to_string()))?;
            }
            Ok::<_, MeshError>((forward, welcome?))
        })?;
        Ok(Self {
            runtime,
            ring,
            forward,
            stats,
            capture,
            dir,
            name,
            id: welcome.run_id,
            rank: welcome.rank,
            attempt: welcome.attempt,
            world_size: welcome.world_size,
            launch_key,
            on_full: config.on_full,
            next_flush: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            close_result: Mutex::new(None),
            pid: std::process::id(),
        })
    }

    /// The run's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.root()
    }
    /// The run's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The run's id.
    #[must_use]
    pub const fn run_id(&self) -> RunId {
        self.id
    }
    /// This process's rank.
    #[must_use]
    pub const fn rank(&self) -> u32 {
        self.rank
    }
    /// Which incarnation of the rank this process is.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }
    /// Number of ranks, as far as the launch announced it.
    #[must_use]
    pub const fn world_size(&self) -> Option<u32> {
        self.world_size
    }
    /// The runtime behind the handle.
    #[must_use]
    pub const fn runtime(&self) -> &'static Runtime {
        self.runtime
    }
    /// Whether this is the process that joined, and not a forked copy of it.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.pid == std::process::id()
    }
    /// Whether `close` was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// What lets a child process join.
    #[must_use]
    pub fn handle(&self) -> RunHandle {
        RunHandle {
            run_dir: self.dir.root().to_owned(),
            launch_key: self.launch_key.clone(),
        }
    }

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
        self.log(&RecordBody::Message {
            level,
            logger: String::new(),
            text: text.into(),
        })
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

    /// Flushes: the answer comes when every live rank's records are durable, or says which are not.
    ///
    /// # Errors
    /// When the run is closed.
    pub async fn flush(&self, options: FlushOptions) -> Result<FlushReport> {
        let (reply, answer) = oneshot::channel();
        let timeout_ms = u64::try_from(options.timeout.as_millis()).unwrap_or(u64::MAX);
        let id = self.next_flush.fetch_add(1, Ordering::Relaxed);
        let request = FlushRequest {
            id,
            scope: options.scope,
            publish: options.publish,
            tag: options.tag,
            timeout_ms,
        };
        let start = std::time::Instant::now();
        self.forward
            .cast(ForwardMsg::Flush { request, reply })
            .map_err(|_gone| MeshError::Closed)?;
        // The owner ends the flush at the deadline; only when it is not there does this side have to.
        let patience = options.timeout + Duration::from_millis(250);
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(_gone)) => Err(MeshError::Closed),
            Err(_elapsed) => Ok(self.unanswered(start.elapsed())),
        }
    }

    /// The report of a flush that no owner answered: this rank's own view.
    fn unanswered(&self, elapsed: Duration) -> FlushReport {
        let seq = self.stats.borrow().outbox.durable_seq;
        let own = RankOutcome {
            state: RankOutcomeState::Timeout,
            seq,
            last_step: None,
            last_seen_us: expman_model::time::now_us(),
        };
        FlushReport {
            version: Version {
                epoch: 0,
                number: 0,
            },
            complete: false,
            ranks: [(self.rank, own)].into(),
            rows: 0,
            elapsed_secs: elapsed.as_secs_f64(),
        }
    }

    /// [`Run::flush`] for callers without a runtime.
    ///
    /// # Errors
    /// As [`Run::flush`].
    pub fn flush_blocking(&self, options: FlushOptions) -> Result<FlushReport> {
        self.runtime.block_on(self.flush(options))
    }

    /// Counts of this process.
    #[must_use]
    pub fn stats(&self) -> RunStats {
        RunStats {
            ring: self.ring.stats(),
            forward: self.stats.borrow().clone(),
        }
    }

    /// Ends this rank: everything it logged is made durable; the last rank also waits until the run's files are closed.
    ///
    /// Returns whether the run is closed. A second call returns what the first one did.
    ///
    /// # Errors
    /// When the deadline came first; says what is not delivered.
    pub async fn close(&self, status: RunStatus, timeout: Duration) -> Result<bool> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(self
                .close_result
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .unwrap_or(false));
        }
        if let Some(capture) = &self.capture {
            capture.stop();
        }
        self.ring.close();
        let (reply, answer) = oneshot::channel();
        self.forward
            .cast(ForwardMsg::Close { status, reply })
            .map_err(|_gone| MeshError::Closed)?;
        let answered = tokio::time::timeout(timeout, answer).await;
        let stats = self.stats();
        if let Err(e) = self.forward.drain() {
            tracing::debug!("the forward actor is gone: {e}");
        }
        if let Ok(Ok(sealed)) = answered {
            *self
                .close_result
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(sealed);
            return Ok(sealed);
        }
        if stats.forward.outbox.durable_seq >= stats.ring.last_seq {
            return Ok(false);
        }
        let left = format!(
            "records {} to {} of rank {} are not known to be durable ({} bytes in memory, {} in the spool; owner {})",
            stats.forward.outbox.durable_seq + 1,
            stats.ring.last_seq,
            self.rank,
            stats.forward.outbox.memory_bytes + stats.ring.queued_bytes,
            stats.forward.outbox.spooled_bytes,
            if stats.forward.connected {
                "connected"
            } else {
                "not connected"
            },
        );
        Err(MeshError::CloseTimeout {
            what: "closing the run",
            waited: timeout,
            left,
        })
    }

    /// [`Run::close`] for callers without a runtime.
    ///
    /// # Errors
    /// As [`Run::close`].
    pub fn close_blocking(&self, status: RunStatus, timeout: Duration) -> Result<bool> {
        self.runtime.block_on(self.close(status, timeout))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.is_closed() || !self.is_mine() || tokio::runtime::Handle::try_current().is_ok() {
            return;
        }
        if let Err(e) = self.close_blocking(RunStatus::Finished, CLOSE_TIMEOUT) {
            tracing::error!("{e}");
        }
    }
}
