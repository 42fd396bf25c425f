//! Capture of descriptors 1 and 2: a pipe in their place, read by a thread that writes the original descriptor
//! byte for byte and puts whole lines into the ring of every run that listens.
//!
//! A process has one redirection, however many runs it has: made for the first that captures, undone behind
//! the last, in whatever order they close.

mod batch;
mod lines;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use expman_model::record::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

pub(crate) use self::batch::Batch;
pub(crate) use self::lines::Lines;
use crate::error::{MeshError, Result};
use crate::gate::Gate;
use crate::ring::Ring;

/// How long a barrier waits for the pipe to be empty.
const DRAIN_WITHIN: Duration = Duration::from_millis(200);
/// How long the end of a capture waits for a reader of the original descriptor who is slow.
const STOP_WITHIN: Duration = Duration::from_secs(1);
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// How often the thread looks whether it shall end.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The redirection of this process, as long as a run captures.
static CURRENT: Mutex<Option<Arc<Pump>>> = Mutex::new(None);

/// One run's part in the redirection; dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    pump: Arc<Pump>,
    ring: Arc<Ring>,
    stopped: AtomicBool,
}

/// The redirection itself.
#[derive(Debug)]
struct Pump {
    taps: [Tap; 2],
    listeners: Mutex<Vec<Listener>>,
    stop: AtomicBool,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    pid: u32,
}

/// A run that is told what is written.
#[derive(Debug)]
struct Listener {
    ring: Arc<Ring>,
    gate: Arc<Gate>,
    lines: [Lines; 2],
    batch: Batch,
    /// Whether a full queue is waited for: once, and again when something has found room.
    is_patient: bool,
}

/// One captured descriptor.
#[derive(Debug)]
struct Tap {
    stream: Stream,
    original: OwnedFd,
    pipe: OwnedFd,
    busy: AtomicBool,
}

impl Capture {
    /// Lines that are written from now on go into `ring`, until [`Capture::stop`].
    ///
    /// # Errors
    /// When a descriptor is closed, or no pipe or thread can be made; nothing is changed then.
    pub(crate) fn start(ring: Arc<Ring>, gate: Arc<Gate>) -> Result<Self> {
        let mut current = locked(&CURRENT);
        let pump = match &*current {
            // What a fork copied belongs to the parent: its thread is not here.
            Some(pump) if pump.pid == std::process::id() => Arc::clone(pump),
            _ => {
                let pump = Pump::start()?;
                std::mem::forget(current.replace(Arc::clone(&pump)));
                pump
            }
        };
        locked(&pump.listeners).push(Listener::new(Arc::clone(&ring), gate));
        Ok(Self {
            pump,
            ring,
            stopped: AtomicBool::new(false),
        })
    }

    /// The descriptors as they were, standard output and error.
    ///
    /// # Errors
    /// When there are too many descriptors.
    pub(crate) fn originals(&self) -> Result<[OwnedFd; 2]> {
        let [out, err] = &self.pump.taps;
        Ok([copied(&out.original)?, copied(&err.original)?])
    }

    /// Waits, for a bounded time, until what was written so far is in the ring.
    pub async fn drained(&self) {
        let start = Instant::now();
        while !self.pump.is_drained() && start.elapsed() < DRAIN_WITHIN {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What was written so far goes into the ring and nothing after it; behind the last run the original
    /// descriptors are put back. A child that still holds the pipes is not waited for.
    pub fn stop(&self) {
        if self.stopped.swap(true, Ordering::SeqCst) || self.pump.pid != std::process::id() {
            return;
        }
        let mut current = locked(&CURRENT);
        if locked(&self.pump.listeners).len() == 1 {
            *current = None;
            self.pump.end();
        } else {
            wait_for(DRAIN_WITHIN, || self.pump.is_drained());
        }
        let mut listeners = locked(&self.pump.listeners);
        if let Some(at) = listeners
            .iter()
            .position(|l| Arc::ptr_eq(&l.ring, &self.ring))
        {
            listeners.remove(at).end();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Pump {
    /// Puts pipes in place of both descriptors.
    fn start() -> Result<Arc<Self>> {
        let (out, out_write) = Tap::new(Stream::Out, rustix::stdio::stdout())?;
        let (err, err_write) = Tap::new(Stream::Err, rustix::stdio::stderr())?;
        let pump = Arc::new(Self {
            taps: [out, err],
            listeners: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
            thread: Mutex::new(None),
            pid: std::process::id(),
        });
        let reading = Arc::clone(&pump);
        let thread = std::thread::Builder::new()
            .name("expman-capture".to_owned())
            .spawn(move || reading.read())
            .map_err(MeshError::io("start a thread for", "standard output"))?;
        *locked(&pump.thread) = Some(thread);
        rustix::stdio::dup2_stdout(&out_write)
            .map_err(|e| MeshError::io("redirect", "standard output")(e.into()))?;
        rustix::stdio::dup2_stderr(&err_write)
            .map_err(|e| MeshError::io("redirect", "standard error")(e.into()))?;
        Ok(pump)
    }

    fn is_drained(&self) -> bool {
        self.taps.iter().all(Tap::is_drained)
    }

    /// Puts the original descriptors back, then lets the thread read what is left in the pipes.
    fn end(&self) {
        let [out, err] = &self.taps;
        for (tap, restored) in [
            (out, rustix::stdio::dup2_stdout(&out.original)),
            (err, rustix::stdio::dup2_stderr(&err.original)),
        ] {
            if let Err(e) = restored {
                tracing::error!("{:?} could not be restored: {e}", tap.stream);
            }
        }
        self.stop.store(true, Ordering::SeqCst);
        let Some(thread) = locked(&self.thread).take() else {
            return;
        };
        if !wait_for(STOP_WITHIN, || thread.is_finished()) {
            tracing::warn!("nobody reads the standard output; its last bytes may be lost");
        } else if thread.join().is_err() {
            tracing::error!("the capture thread panicked");
        }
    }

    /// The thread: as long as somebody may write to the pipes, and then what was left in them.
    fn read(&self) {
        let mut buffer = vec![0; READ_BYTES];
        let mut open = [true, true];
        while open.contains(&true) && !self.stop.load(Ordering::SeqCst) {
            let taps: Vec<usize> = (0..2).filter(|&i| open[i]).collect();
            let mut fds: Vec<PollFd<'_>> = taps
                .iter()
                .map(|&i| PollFd::new(&self.taps[i].pipe, PollFlags::IN))
                .collect();
            if poll(&mut fds, Some(&LOOK)).unwrap_or(0) == 0 {
                continue;
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            for (&i, _) in taps.iter().zip(ready).filter(|(_, ready)| *ready) {
                open[i] = self.read_some(i, &mut buffer).is_some();
            }
        }
        // No more than stands there now: a child that goes on writing must not keep this thread.
        for i in (0..2).filter(|&i| open[i]) {
            let mut left = self.taps[i].waiting();
            while left > 0 {
                let Some(n) = self.read_some(i, &mut buffer) else {
                    break;
                };
                left = left.saturating_sub(n as u64);
            }
        }
    }

    /// Reads once and passes it on; `None` when nobody can write any more.
    fn read_some(&self, i: usize, buffer: &mut [u8]) -> Option<usize> {
        let tap = &self.taps[i];
        tap.busy.store(true, Ordering::SeqCst);
        let read = match rustix::io::read(&tap.pipe, &mut *buffer) {
            Ok(0) => None,
            Ok(n) => {
                tap.write_through(&buffer[..n]);
                for listener in locked(&self.listeners).iter_mut() {
                    listener.hear(tap.stream, &buffer[..n]);
                }
                Some(n)
            }
            Err(rustix::io::Errno::INTR) => Some(0),
            Err(_broken) => None,
        };
        tap.busy.store(false, Ordering::SeqCst);
        read
    }
}

impl Listener {
    fn new(ring: Arc<Ring>, gate: Arc<Gate>) -> Self {
        Self {
            ring,
            gate,
            lines: [Lines::default(), Lines::default()],
            batch: Batch::default(),
            is_patient: true,
        }
    }

    fn hear(&mut self, stream: Stream, bytes: &[u8]) {
        let Self { lines, batch, .. } = self;
        lines[usize::from(stream == Stream::Err)]
            .feed(bytes, |line, ends| batch.add(stream, line, ends));
        self.push();
    }

    /// Lines that never ended.
    fn end(mut self) {
        let Self { lines, batch, .. } = &mut self;
        for (stream, lines) in [Stream::Out, Stream::Err].into_iter().zip(lines) {
            lines.end(|line, ends| batch.add(stream, line, ends));
        }
        self.push();
    }

    fn push(&mut self) {
        if self.gate.is_on() {
            self.is_patient = self.batch.push(&self.ring, self.is_patient);
        } else {
            self.batch.clear();
        }
    }
}

impl Tap {
    fn new(stream: Stream, fd: impl AsFd) -> Result<(Self, OwnedFd)> {
        let what = if stream == Stream::Out {
            "standard output"
        } else {
            "standard error"
        };
        let failed = |e: rustix::io::Errno| MeshError::io("capture", what)(e.into());
        let original = rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(failed)?;
        let (pipe, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let tap = Self {
            stream,
            original,
            pipe,
            busy: AtomicBool::new(false),
        };
        Ok((tap, write))
    }

    /// Bytes in the pipe.
    fn waiting(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.pipe).unwrap_or(0)
    }

    /// Whether all that was written has been passed on.
    fn is_drained(&self) -> bool {
        self.waiting() == 0 && !self.busy.load(Ordering::SeqCst)
    }

    /// Writes to the original descriptor; when nobody reads it any more, the bytes are only captured.
    fn write_through(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match rustix::io::write(&self.original, bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    // Somebody made it non-blocking: wait until it takes more.
                    let mut room = [PollFd::new(&self.original, PollFlags::OUT)];
                    let _ready = poll(&mut room, Some(&LOOK)).unwrap_or(0);
                }
                Err(_closed) => return,
            }
        }
    }
}

/// Another descriptor of the same file.
pub(crate) fn copied(fd: impl AsFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
        .map_err(|e| MeshError::io("copy a descriptor of", "the terminal")(e.into()))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks until it is so, for a bounded time.
fn wait_for(limit: Duration, mut look: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if look() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}
