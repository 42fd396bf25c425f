//! Reading files off the async threads, a bounded number at once, and surviving what files can do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::{Result, ServeError};

/// Reads at once: each may hold a run's columns in memory.
const READS_MAX: usize = 8;

/// Leave to read files.
#[derive(Debug, Clone)]
pub struct Reads {
    permits: Arc<Semaphore>,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(READS_MAX)),
        }
    }
}

impl Reads {
    /// Runs `work` on a thread that may block.
    ///
    /// A file that makes a decoder panic is an error of this one request and of nothing else.
    ///
    /// # Errors
    /// What `work` returns, or that it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        what: impl Into<String>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let what = what.into();
        // The semaphore is never closed: without a permit there is only more work at once.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let task = tokio::task::spawn_blocking(move || {
            let done = catch_unwind(AssertUnwindSafe(work));
            drop(permit);
            done
        });
        match task.await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) | Err(_) => Err(ServeError::Unreadable { what }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_one_failed_request() {
        let reads = Reads::default();
        for _ in 0..=READS_MAX {
            let answer = reads
                .run("x", || -> Result<()> { panic!("as a broken file may") })
                .await;
            assert!(matches!(answer, Err(ServeError::Unreadable { .. })));
        }
        assert_eq!(reads.run("y", || Ok(1)).await.unwrap(), 1);
    }
}
