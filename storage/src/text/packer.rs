//! The thread that packs pieces, when everything else has had its turn.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{LogKind, Piece, packed, pieces};
use crate::durable;
use crate::error::{At, Result};
use crate::layout::RunDir;
use crate::lock::Fence;
use crate::sealer::remove;

/// First and last pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How far the thread stands back behind the others.
const NICE: i32 = 10;

/// Packs the pieces of a run; a run that never rolls never starts its thread.
#[derive(Debug)]
pub(crate) struct Packer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dir: RunDir,
    fence: Fence,
    /// There is no time any more; a piece that is half packed stays plain.
    stop: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Pieces may have come.
    kicked: bool,
    /// All of them are packed.
    idle: bool,
}

impl Packer {
    pub(crate) fn new(dir: RunDir, fence: Fence) -> Self {
        let shared = Shared {
            dir,
            fence,
            stop: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
            thread: None,
        }
    }

    /// Packs what is there, in its own time.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub(crate) fn kick(&mut self) -> Result<()> {
        let mut state = self.shared.lock();
        (state.kicked, state.idle) = (true, false);
        drop(state);
        self.shared.changed.notify_all();
        if self.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new()
                .name("expman-pack".to_owned())
                .spawn(move || shared.run())
                .at("start a thread for", self.shared.dir.root())?;
            self.thread = Some(thread);
        }
        Ok(())
    }

    /// Waits until all is packed, or the time is over: what is plain then stays so, and is read as it is.
    pub(crate) fn finish(&mut self, patience: Duration) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        let end = Instant::now() + patience;
        let mut state = self.shared.lock();
        while !state.idle {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        if thread.join().is_err() {
            tracing::error!("the packing thread panicked; what it had not packed stays plain");
        }
        self.shared.stop.store(false, Ordering::Relaxed);
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        self.finish(Duration::ZERO);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        if let Err(e) = rustix::process::nice(NICE) {
            tracing::debug!("packing at full speed: {e}");
        }
        let mut pause = PAUSE.0;
        loop {
            self.lock().kicked = false;
            let wait = match self.pack_all() {
                Ok(()) => {
                    pause = PAUSE.0;
                    None
                }
                Err(e) if e.is_final() => return tracing::error!("packing ended: {e}"),
                Err(e) => {
                    tracing::warn!("packing failed, trying again: {e}");
                    pause = (pause * 2).min(PAUSE.1);
                    Some(pause)
                }
            };
            let mut state = self.lock();
            state.idle = wait.is_none() && !state.kicked;
            self.changed.notify_all();
            let end = wait.map(|wait| Instant::now() + wait);
            while !state.kicked && !self.stop.load(Ordering::Relaxed) {
                let left = end.map_or(Duration::from_secs(3600), |end| {
                    end.saturating_duration_since(Instant::now())
                });
                if left.is_zero() {
                    break;
                }
                let waited = self.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            drop(state);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn pack_all(&self) -> Result<()> {
        for kind in LogKind::ALL {
            let all = pieces(&self.dir, kind)?;
            for plain in all.iter().filter(|p| !p.packed) {
                if !all.iter().any(|other| is_packed_form(other, plain))
                    && !packed::pack(&plain.path, &plain.packed_path(), &self.fence, &self.stop)?
                {
                    return Ok(());
                }
                // What a reader has open it reads to its end; others find the packed one.
                self.fence.check()?;
                remove(&plain.path)?;
                durable::sync_dir(self.dir.root())?;
            }
        }
        Ok(())
    }
}

/// Whether one piece is what another one becomes.
pub(crate) fn is_packed_form(other: &Piece, plain: &Piece) -> bool {
    other.packed && !plain.packed && (other.from, other.to) == (plain.from, plain.to)
}
