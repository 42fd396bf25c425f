//! The lines of a run's other ranks on this process's terminal, while they come.
//!
//! A thread follows the run's text files, so that nothing stands in the way of what is stored: a terminal that is
//! slow only makes what is shown late. Lines are written whole, to the descriptors that this process had before its
//! own output was captured: what is shown is not captured again.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use expman_model::Level;
use expman_model::fold::{Fold, Folded, Line};
use expman_model::time::now_us;
use expman_storage::lines::{Lines, kind, last_state, level};
use expman_storage::text::{LogKind, LogLine};
use expman_storage::{RunDir, TextTail};
use rustix::io::Errno;

use crate::error::{MeshError, Result};

/// How often new lines are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the end waits until everything is shown.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// See the module; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    /// Shows what comes from now on; with a window, alike lines of all ranks are shown once.
    pub(crate) fn start(
        dir: &RunDir,
        own_rank: u32,
        window: Option<Duration>,
        to: [OwnedFd; 2],
    ) -> Result<Self> {
        let tail = |kind| TextTail::near_end(dir, kind, 0);
        let window_us = window.map(|w| i64::try_from(w.as_micros()).unwrap_or(i64::MAX));
        let screen = Screen {
            tails: [tail(LogKind::Run)?, tail(LogKind::Console)?],
            own_rank,
            lines: Lines::default(),
            fold: window_us.map(Fold::new),
            pending: [Vec::new(), Vec::new()],
            to,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("expman-stream".to_owned())
            .spawn(move || screen.run(&stopped))
            .map_err(MeshError::io("start a thread for", "the stream"))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else {
            return;
        };
        thread.thread().unpark();
        let start = Instant::now();
        while !thread.is_finished() && start.elapsed() < STOP_WITHIN {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() && thread.join().is_err() {
            tracing::error!("the stream's thread panicked");
        }
    }
}

struct Screen {
    tails: [TextTail; 2],
    own_rank: u32,
    lines: Lines,
    fold: Option<Fold>,
    /// For standard output and error.
    pending: [Vec<u8>; 2],
    to: [OwnedFd; 2],
}

impl Screen {
    fn run(mut self, stop: &AtomicBool) {
        loop {
            // Looked at first: what was written before is then read behind it.
            let is_last = stop.load(Ordering::Acquire);
            let found = self.poll();
            if is_last {
                for line in self.lines.end() {
                    self.show(&line);
                }
            }
            self.close_window(is_last);
            if self.write().is_err() || is_last {
                return; // nobody reads it any more
            }
            if !found {
                std::thread::park_timeout(LOOK_EVERY);
            }
        }
    }

    /// Takes in what is new, by time; whether there was anything.
    fn poll(&mut self) -> bool {
        let mut new: Vec<LogLine> = Vec::new();
        for tail in &mut self.tails {
            match tail.poll() {
                Ok(lines) => new.extend(lines),
                Err(e) => tracing::warn!("what the ranks say can't be shown: {e}"),
            }
        }
        new.sort_by_key(|line| line.timestamp_us);
        let found = !new.is_empty();
        for line in new {
            if line.rank != self.own_rank
                && let Some(line) = self.lines.push(line)
            {
                self.show(&line);
            }
        }
        found
    }

    fn show(&mut self, line: &LogLine) {
        let (rank, kind, text) = (line.rank, kind(line), last_state(&line.text));
        match &mut self.fold {
            Some(fold) => {
                let told = fold.push(&Line {
                    at_us: line.timestamp_us,
                    rank,
                    kind,
                    text,
                });
                self.put_folded(&told);
            }
            None => self.put(kind, &format!("[{rank}] "), text),
        }
    }

    fn close_window(&mut self, anyway: bool) {
        if let Some(fold) = &mut self.fold {
            let told = if anyway {
                fold.close()
            } else {
                fold.close_due(now_us())
            };
            self.put_folded(&told);
        }
    }

    fn put_folded(&mut self, told: &[Folded]) {
        for folded in told {
            let times = if folded.count > 1 {
                format!("×{} ", folded.count)
            } else {
                String::new()
            };
            let front = format!("[{}] {times}", folded.ranks);
            self.put(folded.kind, &front, folded.text().as_bytes());
        }
    }

    /// Every line of a text gets the front: no rank's words are taken for another's.
    fn put(&mut self, kind: u16, front: &str, text: &[u8]) {
        let is_out = kind == 0;
        let pending = &mut self.pending[usize::from(!is_out)];
        let level = level(kind).map(Level::name);
        for line in text.split(|&b| b == b'\n') {
            pending.extend_from_slice(front.as_bytes());
            if let Some(level) = &level {
                pending.extend_from_slice(level.as_bytes());
                pending.push(b' ');
            }
            pending.extend_from_slice(line);
            pending.push(b'\n');
        }
    }

    fn write(&mut self) -> Result<(), Errno> {
        for (pending, to) in self.pending.iter_mut().zip(&self.to) {
            let mut rest = pending.as_slice();
            while !rest.is_empty() {
                match rustix::io::write(to, rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
                    Err(e) => return Err(e),
                }
            }
            pending.clear();
        }
        Ok(())
    }
}
