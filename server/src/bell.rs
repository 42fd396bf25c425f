//! Being told that a run's files are written to, instead of looking again and again.
//!
//! What another machine writes on a network file system is not told of, so whoever listens also looks once in a while.

use std::os::fd::OwnedFd;
use std::path::Path;

use expman_storage::RunDir;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Rings when something in a run's folder or its machinery was written.
#[derive(Debug)]
pub struct Bell(AsyncFd<OwnedFd>);

impl Bell {
    /// None where the kernel has no more of them, or the folder is gone.
    #[expect(unsafe_code, reason = "tokio asks for a descriptor that stays open")]
    pub fn at(dir: &RunDir) -> Option<Self> {
        let made = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let fd = made.map_err(|e| tracing::debug!("inotify: {e}")).ok()?;
        let listen = |path: &Path| {
            let flags = WatchFlags::MODIFY
                | WatchFlags::CREATE
                | WatchFlags::MOVED_TO
                | WatchFlags::ONLYDIR
                | WatchFlags::DONT_FOLLOW;
            let told = inotify::add_watch(&fd, path, flags);
            told.map_err(|e| tracing::debug!("inotify, {}: {e}", path.display()))
        };
        listen(dir.root()).ok()?;
        // A run that was copied, or is another tool's, has none.
        listen(&dir.hidden()).ok();
        // SAFETY: the descriptor is owned by what is registered, so it stays open as long as that.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        fd.ok().map(Self)
    }

    /// Waits until it rings.
    pub async fn rings(&self) {
        while let Ok(mut ready) = self.0.readable().await {
            if self.has_rung() {
                return;
            }
            ready.clear_ready();
        }
        std::future::pending::<()>().await;
    }

    /// Whether it has rung since it was asked last.
    pub fn has_rung(&self) -> bool {
        let mut events = [0; 4096];
        let mut any = false;
        while rustix::io::read(&self.0, &mut events).is_ok_and(|n| n > 0) {
            any = true;
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn it_rings_once_for_what_was_written_and_not_again() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path());
        std::fs::create_dir(dir.hidden()).unwrap();
        let bell = Bell::at(&dir).unwrap();
        assert!(!bell.has_rung());
        let mut log = std::fs::File::create(dir.wal(0, 1)).unwrap();
        bell.rings().await;
        assert!(!bell.has_rung());
        for _ in 0..100 {
            log.write_all(b"x").unwrap();
        }
        bell.rings().await;
        assert!(!bell.has_rung());
        std::fs::rename(dir.wal(0, 1), dir.meta()).unwrap();
        bell.rings().await;
        drop(tmp);
        assert!(Bell::at(&dir).is_none());
    }
}
