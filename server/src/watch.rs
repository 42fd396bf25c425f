//! Following runs: each by one task, whatever the number of its readers.
//!
//! Owns the latest rows, lines and charts of every run that somebody looks at.
//! Readers hold a position and are woken; none of them ever touches a file.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use expman_storage::RunEntry;
use expman_storage::pyramid::MadeSums;
use tokio::sync::watch as signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::bell::Bell;
use crate::blocking::Reads;
use crate::error::{Result, ServeError};
use crate::follow::{Follower, News};
use crate::index::Index;
pub use crate::watched::{Watched, cursor_at};

/// Runs followed at once.
const RUNS_MAX: usize = 64;
/// A run that is being written is looked at this often where nothing tells that it was written to, and at most this
/// often where something does: at once when it was quiet.
const LIVE_EVERY: Duration = Duration::from_millis(100);
/// A bell tells of what is written, not of a writer's death.
const TOLD_EVERY: Duration = Duration::from_millis(500);
/// A run that is not being written is looked at this often: it may be resumed.
const STILL_EVERY: Duration = Duration::from_secs(1);
/// A run without readers is followed for this much longer.
const LINGER: Duration = Duration::from_secs(30);

/// Every run that is followed.
#[derive(Debug)]
pub struct Hub {
    index: Arc<Index>,
    reads: Reads,
    stopping: signal::Receiver<bool>,
    made: Arc<MadeSums>,
    runs: Mutex<HashMap<String, Arc<Watched>>>,
}

/// A reader's hold on a run: as long as it is there the run is followed.
#[derive(Debug)]
pub struct Watch(Arc<Watched>);

impl Deref for Watch {
    type Target = Watched;

    fn deref(&self) -> &Watched {
        &self.0
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl Hub {
    /// A hub that follows nothing yet.
    pub fn new(index: Arc<Index>, reads: Reads, stopping: signal::Receiver<bool>) -> Self {
        Self {
            index,
            reads,
            stopping,
            made: Arc::default(),
            runs: Mutex::default(),
        }
    }

    /// The sums of rows that have none beside them.
    pub fn made(&self) -> &Arc<MadeSums> {
        &self.made
    }

    /// Follows a run, or joins those who do, and waits until its files were read once.
    ///
    /// # Errors
    /// When there is no such run, its files can't be read, or too many runs are followed.
    pub async fn watch(self: &Arc<Self>, key: &str) -> Result<Watch> {
        let known = self.lock().get(key).map(hold);
        let watch = match known {
            Some(watch) => watch,
            None => self.start(self.index.run(key).await?)?,
        };
        let mut looks = watch.subscribe();
        // The sender is in the watched run that we hold, so it is not dropped.
        if looks.wait_for(|looks| *looks > 0).await.is_err() {
            return Err(ServeError::NotFound { what: "this run" });
        }
        match watch.unread() {
            Some(what) => Err(ServeError::Damaged { what }),
            None => Ok(watch),
        }
    }

    fn start(self: &Arc<Self>, run: RunEntry) -> Result<Watch> {
        let mut runs = self.lock();
        if let Some(known) = runs.get(&run.key) {
            return Ok(hold(known));
        }
        if runs.len() >= RUNS_MAX {
            let idle = runs
                .iter()
                .filter_map(|(key, w)| Some((w.idle()?, key.clone())));
            let oldest = idle.max().map(|(_, key)| key);
            let oldest = oldest.ok_or(ServeError::Busy {
                what: "runs are followed",
                max: RUNS_MAX,
            })?;
            runs.remove(&oldest);
        }
        let follower = Follower::new(&run, Arc::clone(&self.made));
        let key = run.key.clone();
        // In front of the first look, so that nothing is written between the two.
        let bell = Bell::at(&run.dir);
        let watched = Arc::new(Watched::new(run));
        let watch = hold(&watched);
        runs.insert(key.clone(), Arc::clone(&watched));
        tokio::spawn(Arc::clone(self).follow(key, watched, follower, bell));
        Ok(watch)
    }

    /// Looks at the files until nobody needs them.
    async fn follow(
        self: Arc<Self>,
        key: String,
        watched: Arc<Watched>,
        follower: Follower,
        mut bell: Option<Bell>,
    ) {
        let mut stopping = self.stopping.clone();
        let mut follower = Some(follower);
        let mut was_told = true;
        while let Some(mut now) = follower.take() {
            let what = watched.place();
            let into = Arc::clone(&watched);
            let started = Instant::now();
            let look = self.reads.run(what, move || {
                let grew = into.take(now.look());
                Ok((now, grew))
            });
            let mut grew = false;
            match look.await {
                Ok((back, more)) => (follower, grew) = (Some(back), more),
                // The decoder panicked, and the follower went with it: this run stays as it is.
                Err(e) => {
                    let failure = Some(e.to_string());
                    watched.take(News {
                        failure,
                        ..News::default()
                    });
                }
            }
            let rings = bell.as_ref().is_some_and(Bell::has_rung);
            if grew && !was_told && !rings {
                bell = None; // it does not hear who writes
            }
            let every = match (watched.is_live(), &bell) {
                (_, Some(_)) if rings => LIVE_EVERY,
                (true, Some(_)) => TOLD_EVERY,
                (true, None) => LIVE_EVERY,
                (false, _) => STILL_EVERY,
            };
            was_told = tokio::select! {
                () = sleep(every) => rings,
                () = rung(bell.as_ref()) => true,
                () = crate::told_to_stop(&mut stopping) => return,
            };
            tokio::select! {
                () = sleep_until(started + LIVE_EVERY) => {}
                () = crate::told_to_stop(&mut stopping) => return,
            }
            if self.forget(&key, &watched) {
                return;
            }
        }
        // Kept for a while so that a broken file is not read again at once by each who asks.
        while !self.forget(&key, &watched) {
            tokio::select! {
                () = tokio::time::sleep(STILL_EVERY) => {}
                () = crate::told_to_stop(&mut stopping) => return,
            }
        }
    }

    /// Lets go of a run that nobody has read for a while, or that made room for another.
    fn forget(&self, key: &str, watched: &Arc<Watched>) -> bool {
        let mut runs = self.lock();
        let idle = watched.idle();
        if !runs.get(key).is_some_and(|now| Arc::ptr_eq(now, watched)) {
            return idle.is_some();
        }
        let done = idle.is_some_and(|idle| idle > LINGER);
        if done {
            runs.remove(key);
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Watched>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn rung(bell: Option<&Bell>) {
    match bell {
        Some(bell) => bell.rings().await,
        None => std::future::pending().await,
    }
}

fn hold(watched: &Arc<Watched>) -> Watch {
    watched.hold();
    Watch(Arc::clone(watched))
}
