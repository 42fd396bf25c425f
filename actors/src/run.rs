//! A process's handle on its run: what the Python face and Rust programs call.

mod config;
mod end;
mod log;
mod text;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use expman_model::forwarding::Forwarding;
use expman_model::limits::{BATCH_AGE, BATCH_BYTES, CLOSE_TIMEOUT, RING_BYTES};
use expman_model::{Incarnation, RunId, RunMeta, RunStatus};
use expman_storage::RunDir;
use ractor::{Actor, ActorRef};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

pub use self::config::{FlushOptions, OnFull, RunConfig, RunHandle};
pub use self::log::Origin;
use crate::capture::Capture;
use crate::error::{MeshError, Result};
use crate::forward_actor::{
    ForwardActor, ForwardArgs, ForwardMsg, ForwardStats, Notices, Source, watch_ring,
};
use crate::gate::Gate;
use crate::handed::Handed;
use crate::join::{Joiner, keep_link};
use crate::link::frame::{Hello, PROTOCOL, Welcome};
use crate::outbox::SPOOL_LOST;
use crate::owner::OwnerSpec;
use crate::ring::{Ring, RingStats};
use crate::stream::Stream;
use crate::{host, naming, runtime};

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
    notices: Arc<Notices>,
    /// None when the run is closed: its descriptors are given back then.
    capture: Mutex<Option<Arc<Capture>>>,
    gate: Arc<Gate>,
    stream: Mutex<Option<Stream>>,
    handed: Handed,
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
    pub fn open_handle(mut config: RunConfig, handle: &RunHandle) -> Result<Self> {
        // Whoever was given a handle may join, also when the run was resumed by its giver.
        config.resume = true;
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
        let ring = Arc::new(Ring::new(RING_BYTES, BATCH_BYTES)?);
        let notices = Arc::new(Notices::default());
        if let Err(why) = ring.shared() {
            tracing::warn!("the queue is in private memory: {why}");
            notices.tell(
                Source::Ring,
                &format!("the queue is in private memory ({why}): what a killed process had not sent yet is lost"),
            );
        }
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
            forwarding: Forwarding::default(),
        };
        let gate = Arc::new(Gate::new());
        let capture = if config.capture {
            Some(Arc::new(Capture::start(
                Arc::clone(&ring),
                Arc::clone(&gate),
            )?))
        } else {
            None
        };
        let (stats_tell, stats) = watch::channel(ForwardStats::default());
        let args = ForwardArgs {
            ring: Arc::clone(&ring),
            dir: dir.clone(),
            hello: hello.clone(),
            capture: capture.clone(),
            gate: Arc::clone(&gate),
            stats: stats_tell,
            notices: Arc::clone(&notices),
        };
        let joiner = Joiner {
            spec: OwnerSpec {
                run_dir: dir.root().to_owned(),
                seed,
            },
            dir: dir.clone(),
            owner: config.owner,
            hello,
            ring: Arc::clone(&ring),
            gate: Arc::clone(&gate),
        };
        // Longer would break the promise that everything is in a file after 50 ms.
        let batch_age = config.batch_age.min(BATCH_AGE);
        let joined = runtime.block_on(meet(args, joiner, batch_age, config.timeout));
        if joined.is_err()
            && let Some(capture) = &capture
        {
            // Before the caller learns of it: what it prints then must not pass through here any more.
            capture.stop();
        }
        let (forward, welcome) = joined?;
        Ok(Self {
            runtime,
            handed: Handed::new(Arc::clone(&ring), Arc::clone(&gate)),
            ring,
            forward,
            stats,
            notices,
            capture: Mutex::new(capture),
            gate,
            stream: Mutex::new(None),
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

    /// Counts of this process; none in a forked copy of it.
    #[must_use]
    pub fn stats(&self) -> RunStats {
        if !self.is_mine() {
            return RunStats::default();
        }
        let (mut ring, forward) = (self.ring.stats(), self.stats.borrow().clone());
        if forward.outbox.lost > 0 {
            ring.dropped
                .insert(SPOOL_LOST.to_owned(), forward.outbox.lost);
        }
        RunStats { ring, forward }
    }

    /// Whether [`Run::notices`] has something to tell: one load.
    #[must_use]
    #[inline]
    pub fn has_notices(&self) -> bool {
        self.notices.are_waiting()
    }

    /// What went wrong on the way to the disk and was not told yet; each kind comes once.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        self.notices.take()
    }
}

/// Starts the actor and its link, and waits until the owner knows this process.
async fn meet(
    args: ForwardArgs,
    joiner: Joiner,
    batch_age: Duration,
    timeout: Duration,
) -> Result<(ActorRef<ForwardMsg>, Welcome)> {
    let ring = Arc::clone(&args.ring);
    let (forward, _) = Actor::spawn(None, ForwardActor, args)
        .await
        .map_err(|e| MeshError::Actor(e.to_string()))?;
    tokio::spawn(watch_ring(ring, forward.clone(), batch_age));
    let (first, joined) = oneshot::channel();
    tokio::spawn(keep_link(joiner, forward.clone(), timeout, first));
    let welcome = joined.await.unwrap_or_else(|_gone| Err(MeshError::Closed));
    if welcome.is_err() {
        forward
            .drain()
            .map_err(|e| MeshError::Actor(e.to_string()))?;
    }
    Ok((forward, welcome?))
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
