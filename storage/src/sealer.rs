//! The thread that sorts, encodes and publishes, so that commits never wait for Parquet.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{At, Result, StorageError};
use crate::layout::RunDir;
use crate::reader::segment_chain;
use crate::rows::Rows;
use crate::{durable, segment};

/// Pause between two attempts to seal.
const RETRY: Duration = Duration::from_millis(500);

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
    Sealed(Result<()>),
    /// Rows and bytes of `metrics.parquet` now.
    Published(Result<(u64, u64)>),
}

/// The thread's handle; at most one job waits while one runs.
#[derive(Debug)]
pub(crate) struct Sealer {
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
    open: usize,
    leave: Arc<AtomicBool>,
}

impl Sealer {
    pub(crate) fn start(dir: RunDir) -> Result<Self> {
        let (jobs, todo) = sync_channel::<Job>(1);
        let (tell, done) = sync_channel(4);
        let root = dir.root().to_owned();
        let leave = Arc::new(AtomicBool::new(false));
        let leaving = Arc::clone(&leave);
        let thread = std::thread::Builder::new()
            .name("expman-seal".to_owned())
            .spawn(move || {
                for job in todo {
                    let done = match job {
                        Job::Seal { rows, lo, hi, logs } => {
                            Done::Sealed(until(&leaving, || seal(&dir, &rows, lo, hi, &logs)))
                        }
                        Job::Publish => Done::Published(publish(&dir)),
                    };
                    if tell.send(done).is_err() {
                        return;
                    }
                }
            })
            .at("start a thread for", &root)?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            thread: Some(thread),
            open: 0,
            leave,
        })
    }

    /// How many jobs are not reported yet.
    pub(crate) const fn open(&self) -> usize {
        self.open
    }

    /// Hands over a job; waits when one is already waiting.
    pub(crate) fn submit(&mut self, job: Job) {
        if self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.send(job).is_ok())
        {
            self.open += 1;
        }
    }

    /// The next ended job, if there is one now.
    pub(crate) fn poll(&mut self) -> Option<Done> {
        match self.done.try_recv() {
            Ok(done) => {
                self.open -= 1;
                Some(done)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }

    /// Waits for the next job to end.
    pub(crate) fn wait(&mut self) -> Option<Done> {
        if self.open == 0 {
            return None;
        }
        self.open -= 1;
        self.done.recv().ok()
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::Relaxed);
        self.jobs = None;
        while self.wait().is_some() {}
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sealing thread panicked; the commit log still holds the rows");
        }
    }
}

/// Repeats work until it succeeds or the run is left: segments must follow each other without a gap,
/// and meanwhile the commit log holds the rows.
fn until(leaving: &AtomicBool, work: impl Fn() -> Result<()>) -> Result<()> {
    loop {
        match work() {
            Err(e) if !leaving.load(Ordering::Relaxed) => {
                tracing::error!("sealing failed, trying again: {e}");
                std::thread::sleep(RETRY);
            }
            done => return done,
        }
    }
}

fn seal(dir: &RunDir, rows: &Rows, lo: u64, hi: u64, logs: &[PathBuf]) -> Result<()> {
    if hi > lo {
        segment::write_sorted(&dir.segment(lo, hi), rows, hi)?;
    }
    for log in logs {
        remove(log)?;
    }
    durable::sync_dir(&dir.hidden())
}

fn publish(dir: &RunDir) -> Result<(u64, u64)> {
    let metrics = dir.metrics();
    let mut hi = segment::read_hi(&metrics)?;
    let chain = segment_chain(dir, &mut hi)?;
    if !chain.is_empty() {
        let sources: Vec<_> = std::iter::once(metrics.as_path())
            .chain(chain.iter().map(PathBuf::as_path))
            .collect();
        segment::splice(&metrics, &sources, hi)?;
        for path in &chain {
            remove(path)?;
        }
    }
    let bytes = std::fs::metadata(&metrics).at("stat", &metrics)?.len();
    Ok((hi, bytes))
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &std::path::Path) -> Result<(), StorageError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at("remove", path),
        _ => Ok(()),
    }
}
