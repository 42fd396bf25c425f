//! The thread that sorts, encodes and publishes, so that commits never wait for Parquet.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::durable::Prepared;
use crate::error::{At, Result, StorageError};
use crate::layout::RunDir;
use crate::lock::Fence;
use crate::pyramid::Upkeep;
use crate::reader::segment_chain;
use crate::rows::{Order, Rows};
use crate::{durable, segment};

/// First and last pause between two attempts to seal.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Jobs that may wait or run.
const JOBS: usize = 2;

/// Work for the thread; jobs are done in order.
#[derive(Debug)]
pub(crate) enum Job {
    /// Write the rows `[lo, hi)` as a segment, then remove the logs that held them.
    Seal {
        rows: Box<Rows>,
        lo: u64,
        hi: u64,
        logs: Vec<PathBuf>,
    },
    /// Join the segments to `metrics.parquet`, then remove them.
    Publish,
}

/// Which job ended, and how.
#[derive(Debug)]
pub(crate) enum Done {
    /// With the table, emptied, for the next rows.
    Sealed(Result<()>, Box<Rows>),
    /// Rows and bytes of `metrics.parquet` now.
    Published(Result<(u64, u64)>),
}

/// The thread's handle.
#[derive(Debug)]
pub(crate) struct Sealer {
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
    /// The rows that each job holds which is not reported yet; jobs end in order.
    open: VecDeque<usize>,
    shared: Arc<Shared>,
}

/// What both sides look at.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    hurried: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Nothing is tried a second time any more.
    hurry: bool,
    /// Why the present job does not succeed.
    trouble: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sealer {
    pub(crate) fn start(dir: RunDir, fence: Fence) -> Result<Self> {
        let (jobs, todo) = sync_channel::<Job>(JOBS);
        let (tell, done) = sync_channel(2 * JOBS);
        let root = dir.root().to_owned();
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            sums: Upkeep::new(dir.clone(), fence.clone()),
            dir,
            fence,
            shared: Arc::clone(&shared),
            broken: false,
        };
        let thread = std::thread::Builder::new()
            .name("expman-seal".to_owned())
            .spawn(move || worker.run(&todo, &tell))
            .at("start a thread for", &root)?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            thread: Some(thread),
            open: VecDeque::new(),
            shared,
        })
    }

    /// How many jobs are not reported yet.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// How many rows they hold in memory.
    pub(crate) fn rows(&self) -> usize {
        self.open.iter().sum()
    }

    /// Whether one more job would be taken at once.
    pub(crate) fn has_room(&self) -> bool {
        self.open.len() < JOBS
    }

    /// Why the present job does not succeed.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble.clone()
    }

    /// Hands over a job; waits when too many wait already.
    pub(crate) fn submit(&mut self, job: Job) {
        let rows = match &job {
            Job::Seal { rows, .. } => rows.len(),
            Job::Publish => 0,
        };
        if self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.send(job).is_ok())
        {
            self.open.push_back(rows);
        }
    }

    /// The next ended job, if there is one now.
    pub(crate) fn poll(&mut self) -> Option<Done> {
        match self.done.try_recv() {
            Ok(done) => {
                self.open.pop_front();
                Some(done)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }

    /// Waits for the next job to end.
    pub(crate) fn wait(&mut self) -> Option<Done> {
        self.open.pop_front()?;
        self.done.recv().ok()
    }

    /// From now on a job that fails is not tried again: the run is left, and its logs hold the rows.
    pub(crate) fn hurry(&self) {
        self.shared.lock().hurry = true;
        self.shared.hurried.notify_all();
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.hurry();
        self.jobs = None;
        while self.wait().is_some() {}
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sealing thread panicked; the commit log still holds the rows");
        }
    }
}

struct Worker {
    dir: RunDir,
    sums: Upkeep,
    fence: Fence,
    shared: Arc<Shared>,
    /// A segment is missing, so none behind it may be made: they must follow each other without a gap.
    broken: bool,
}

impl Worker {
    fn run(mut self, todo: &Receiver<Job>, tell: &SyncSender<Done>) {
        for job in todo {
            let done = match job {
                Job::Seal {
                    mut rows,
                    lo,
                    hi,
                    logs,
                } => {
                    let sorted = Sorted::of(&rows, lo, hi);
                    let Self {
                        dir,
                        sums,
                        fence,
                        shared,
                        broken,
                    } = &mut self;
                    // Made once; a segment that fails may be tried again and again.
                    let mut sums = (hi > lo && !*broken).then_some(sums);
                    let sealed = until(shared, || {
                        if *broken {
                            return Err(missing(dir, lo));
                        }
                        seal(dir, fence, sums.take(), &sorted, &logs)
                    });
                    self.broken |= sealed.is_err();
                    rows.clear();
                    Done::Sealed(sealed, rows)
                }
                Job::Publish => Done::Published(self.publish()),
            };
            if tell.send(done).is_err() {
                return;
            }
        }
    }

    fn publish(&self) -> Result<(u64, u64)> {
        let metrics = self.dir.metrics();
        let mut hi = segment::read_hi(&metrics)?;
        let chain = segment_chain(&self.dir, &mut hi)?;
        if !chain.is_empty() {
            join(&self.dir, &self.sums, &self.fence, &chain, hi)?;
            for path in &chain {
                remove(path)?;
            }
            self.sums.prune(hi)?;
        }
        let bytes = std::fs::metadata(&metrics).at("stat", &metrics)?.len();
        Ok((hi, bytes))
    }
}

/// Repeats work until it succeeds or the run is left; meanwhile the commit log holds the rows.
fn until(shared: &Shared, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    let mut pause = PAUSE.0;
    loop {
        let done = work();
        let mut state = shared.lock();
        match done {
            Err(e) if !e.is_final() && !state.hurry => {
                let what = e.to_string();
                if state.trouble.as_ref() != Some(&what) {
                    tracing::error!("sealing failed, trying again: {what}");
                }
                state.trouble = Some(what);
                let waited = shared
                    .hurried
                    .wait_timeout_while(state, pause, |state| !state.hurry);
                drop(waited);
                pause = (pause * 2).min(PAUSE.1);
            }
            done => {
                state.trouble = None;
                return done;
            }
        }
    }
}

/// A segment in front of these rows is missing.
fn missing(dir: &RunDir, lo: u64) -> StorageError {
    StorageError::MissingRows {
        path: dir.root().to_owned(),
        from: 0,
        to: lo,
    }
}

fn seal(
    dir: &RunDir,
    fence: &Fence,
    sums: Option<&mut Upkeep>,
    sorted: &Sorted<'_>,
    logs: &[PathBuf],
) -> Result<()> {
    if sorted.hi > sorted.lo {
        let path = dir.segment(sorted.lo, sorted.hi);
        prepare(&path, sums, sorted)?.publish(Some(fence))?;
    }
    fence.check()?;
    for log in logs {
        remove(log)?;
    }
    durable::sync_dir(&dir.hidden())
}

/// The rows `[lo, hi)` of a run, with the order that they are written in.
#[derive(Debug)]
pub(crate) struct Sorted<'a> {
    rows: &'a Rows,
    order: Order,
    lo: u64,
    hi: u64,
}

impl<'a> Sorted<'a> {
    pub(crate) fn of(rows: &'a Rows, lo: u64, hi: u64) -> Self {
        let order = rows.sorted();
        Self {
            rows,
            order,
            lo,
            hi,
        }
    }
}

/// The file of sorted rows up to the moment when it gets its name; meanwhile their sum is made, on another core if
/// there is one.
pub(crate) fn prepare(
    path: &Path,
    sums: Option<&mut Upkeep>,
    sorted: &Sorted<'_>,
) -> Result<Prepared> {
    let (rows, order, lo, hi) = (sorted.rows, &sorted.order, sorted.lo, sorted.hi);
    std::thread::scope(|scope| {
        if let Some(sums) = sums {
            scope.spawn(move || sums.seal(rows, order, lo, hi));
        }
        segment::prepare_in_order(path, rows, order, hi)
    })
}

/// Brings the segments of `chain`, the last of which ends at `hi`, behind the published rows; they stay.
pub(crate) fn join(
    dir: &RunDir,
    sums: &Upkeep,
    fence: &Fence,
    chain: &[PathBuf],
    hi: u64,
) -> Result<()> {
    if chain.is_empty() {
        return Ok(());
    }
    let metrics = dir.metrics();
    let sources: Vec<_> = std::iter::once(metrics.as_path())
        .chain(chain.iter().map(PathBuf::as_path))
        .collect();
    let next = segment::prepare_spliced(&metrics, &sources, hi)?;
    sums.publish(hi);
    next.publish(Some(fence))
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at("remove", path),
        _ => Ok(()),
    }
}
