//! What must hold for every input: no panic that reaches the caller, bounded memory, bounded time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use crate::heap;
use crate::targets::{Panics, Target, target};

/// No input may keep a target busy for longer; far above what any takes, since machines are shared.
const TIME_MAX: Duration = Duration::from_secs(10);

/// What panicked since the last look, also on other threads and where somebody caught it.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// One input at a time, since memory is counted for the whole process.
static TURN: Mutex<()> = Mutex::new(());

fn panics() -> Vec<String> {
    std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn watch_panics() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let mut known = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() < 16 {
                known.push(info.to_string());
            }
        }));
    });
}

/// Runs a target over an input.
///
/// # Errors
/// With what was broken.
pub fn check(target: &Target, bytes: &[u8]) -> Result<(), String> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    watch_panics();
    drop(panics());
    let start = Instant::now();
    let (done, bytes_held) = heap::peak(|| catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))));
    let took = start.elapsed();
    let panicked = panics();
    if done.is_err() || target.panics == Panics::Never && !panicked.is_empty() {
        return Err(format!(
            "{}: panicked: {}",
            target.name,
            panicked.join("; ")
        ));
    }
    if bytes_held > target.heap_bytes_max {
        return Err(format!(
            "{}: held {bytes_held} bytes for an input of {}",
            target.name,
            bytes.len()
        ));
    }
    if took > TIME_MAX {
        return Err(format!("{}: took {took:?}", target.name));
    }
    Ok(())
}

/// [`check`] for libFuzzer, which keeps the input of a process that aborts.
pub fn must_hold(name: &str, bytes: &[u8]) {
    let broken = match target(name) {
        Some(target) => check(target, bytes),
        None => Err(format!("there is no target {name:?}")),
    };
    if let Err(what) = broken {
        eprintln!("{what}");
        std::process::abort();
    }
}
