//! Capture of descriptors 1 and 2: a pipe in their place, read by a thread that writes the original descriptor
//! byte for byte and puts whole lines into the ring.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use expman_model::RecordBody;
use expman_model::limits::CONSOLE_CHUNK_BYTES;
use expman_model::record::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{MeshError, Result};
use crate::ring::{Ring, encode};

/// How long a barrier waits for the pipe to be empty.
const DRAIN_WITHIN: Duration = Duration::from_millis(200);
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// How often the thread looks whether it shall end.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// See the module; dropping it restores the descriptors.
#[derive(Debug)]
pub struct Capture {
    taps: [Arc<Tap>; 2],
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    pid: u32,
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
    /// Puts pipes in place of both descriptors; lines go into `ring`.
    ///
    /// # Errors
    /// When a descriptor is closed, or no pipe or thread can be made; nothing is changed then.
    pub fn start(ring: Arc<Ring>) -> Result<Self> {
        let (out, out_write) = Tap::new(Stream::Out, rustix::stdio::stdout())?;
        let (err, err_write) = Tap::new(Stream::Err, rustix::stdio::stderr())?;
        let taps = [Arc::new(out), Arc::new(err)];
        let stop = Arc::new(AtomicBool::new(false));
        let (thread_taps, thread_stop) = (taps.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("expman-capture".to_owned())
            .spawn(move || read_pipes(&thread_taps, &thread_stop, &ring))
            .map_err(MeshError::io("start a thread for", "standard output"))?;
        rustix::stdio::dup2_stdout(&out_write)
            .map_err(|e| MeshError::io("redirect", "standard output")(e.into()))?;
        rustix::stdio::dup2_stderr(&err_write)
            .map_err(|e| MeshError::io("redirect", "standard error")(e.into()))?;
        Ok(Self {
            taps,
            stop,
            thread: Mutex::new(Some(thread)),
            pid: std::process::id(),
        })
    }

    /// Waits, for a bounded time, until what was written so far is in the ring.
    pub async fn drained(&self) {
        let start = Instant::now();
        while start.elapsed() < DRAIN_WITHIN {
            let empty = self.taps.iter().all(|tap| {
                rustix::io::ioctl_fionread(&tap.pipe).unwrap_or(0) == 0
                    && !tap.busy.load(Ordering::SeqCst)
            });
            if empty {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Puts the original descriptors back and reads what is left in the pipes; a child that still holds them is not waited for.
    pub fn stop(&self) {
        if self.stop.swap(true, Ordering::SeqCst) || self.pid != std::process::id() {
            return;
        }
        for (tap, restored) in [
            (
                &self.taps[0],
                rustix::stdio::dup2_stdout(&self.taps[0].original),
            ),
            (
                &self.taps[1],
                rustix::stdio::dup2_stderr(&self.taps[1].original),
            ),
        ] {
            if let Err(e) = restored {
                tracing::error!("{:?} could not be restored: {e}", tap.stream);
            }
        }
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the capture thread panicked");
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop();
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
        Ok((
            Self {
                stream,
                original,
                pipe,
                busy: AtomicBool::new(false),
            },
            write,
        ))
    }
}

/// Bytes of a line that has not ended.
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Splits at newlines; a line beyond the chunk size goes on in the next record.
    fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8], bool)) {
        self.rest.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(n) = self.rest[from..].iter().position(|&b| b == b'\n') {
            for (last, chunk) in chunks(&self.rest[from..from + n]) {
                each(chunk, last);
            }
            from += n + 1;
        }
        self.rest.drain(..from);
        while self.rest.len() > CONSOLE_CHUNK_BYTES {
            each(&self.rest[..CONSOLE_CHUNK_BYTES], false);
            self.rest.drain(..CONSOLE_CHUNK_BYTES);
        }
    }

    /// The line that never ended.
    fn end(&mut self, mut each: impl FnMut(&[u8], bool)) {
        if !self.rest.is_empty() {
            each(&self.rest, true);
            self.rest.clear();
        }
    }
}

fn chunks(line: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    let n = line.len().div_ceil(CONSOLE_CHUNK_BYTES).max(1);
    (0..n).map(move |i| {
        let end = line.len().min((i + 1) * CONSOLE_CHUNK_BYTES);
        (i + 1 == n, &line[i * CONSOLE_CHUNK_BYTES..end])
    })
}

fn read_pipes(taps: &[Arc<Tap>; 2], stop: &AtomicBool, ring: &Ring) {
    let mut buffer = vec![0; READ_BYTES];
    let mut lines = [Lines { rest: Vec::new() }, Lines { rest: Vec::new() }];
    let mut open = [true, true];
    let record = |stream: Stream, bytes: &[u8], ends_line: bool| {
        let body = RecordBody::Console {
            stream,
            ends_line,
            bytes: bytes.to_vec(),
        };
        if ring.push(&mut encode(&body), None).is_err() {
            // The ring counts it as a gap; saying so here would only make more output.
        }
    };
    while open.contains(&true) {
        let stopping = stop.load(Ordering::SeqCst);
        let mut fds: Vec<PollFd<'_>> = taps
            .iter()
            .map(|tap| PollFd::new(&tap.pipe, PollFlags::IN))
            .collect();
        let patience = if stopping {
            Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }
        } else {
            LOOK
        };
        let ready = poll(&mut fds, Some(&patience)).unwrap_or(0);
        if ready == 0 {
            if stopping {
                break;
            }
            continue;
        }
        let readable: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (i, tap) in taps.iter().enumerate().filter(|(i, _)| readable[*i]) {
            tap.busy.store(true, Ordering::SeqCst);
            match rustix::io::read(&tap.pipe, &mut buffer) {
                Ok(0) => open[i] = false,
                Ok(n) => {
                    write_through(tap, &buffer[..n]);
                    lines[i].feed(&buffer[..n], |bytes, ends| record(tap.stream, bytes, ends));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_broken) => open[i] = false,
            }
            tap.busy.store(false, Ordering::SeqCst);
        }
        if !open.contains(&true) {
            break;
        }
    }
    for (tap, lines) in taps.iter().zip(&mut lines) {
        lines.end(|bytes, ends| record(tap.stream, bytes, ends));
    }
}

/// Writes to the original descriptor; when nobody reads it any more, the bytes are only captured.
fn write_through(tap: &Tap, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(&tap.original, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_and_long_ones_are_chunked() {
        let mut lines = Lines { rest: Vec::new() };
        let mut seen = Vec::new();
        lines.feed(b"one\ntw", |b, last| seen.push((b.to_vec(), last)));
        lines.feed(b"o\n\nrest", |b, last| seen.push((b.to_vec(), last)));
        lines.end(|b, last| seen.push((b.to_vec(), last)));
        let texts: Vec<_> = seen
            .iter()
            .map(|(b, _)| String::from_utf8_lossy(b).into_owned())
            .collect();
        assert_eq!(texts, ["one", "two", "", "rest"]);
        let long = [vec![b'x'; CONSOLE_CHUNK_BYTES * 2 + 5], vec![b'\n']].concat();
        let mut chunks = Vec::new();
        lines.feed(&long, |b, last| chunks.push((b.len(), last)));
        assert_eq!(
            chunks,
            [
                (CONSOLE_CHUNK_BYTES, false),
                (CONSOLE_CHUNK_BYTES, false),
                (5, true)
            ]
        );
    }
}
