//! `events.jsonl`: one JSON object a line, appended under a lock.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use expman_model::Event;
use expman_model::time::{now_us, rfc3339_us};
use rustix::fs::OFlags;

use crate::durable;
use crate::error::{At, Result, StorageError};

/// How long an append waits for another process's append, which takes microseconds.
const LOCK_BUDGET: Duration = Duration::from_millis(100);

/// Appends events; several processes may do so at once.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: File,
    prefix: String,
    next: u64,
}

impl EventLog {
    /// Opens the file; ids begin with `prefix`.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(path: &Path, prefix: impl Into<String>) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .mode(0o640)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
            .at("open", path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            prefix: prefix.into(),
            next: 1,
        })
    }

    /// Appends one event; a line that a crash left torn is closed first, one that could not be written whole is cut.
    ///
    /// # Errors
    /// When the lock is held for longer than a tenth of a second, or the write fails; both name the path.
    pub fn append(&mut self, body: &expman_model::EventBody) -> Result<()> {
        let event = Event {
            id: format!("{}-{}", self.prefix, self.next),
            timestamp: rfc3339_us(now_us()),
            body: body.clone(),
        };
        let mut line = serde_json::to_vec(&event).map_err(|e| StorageError::Damaged {
            path: self.path.clone(),
            offset: 0,
            what: e.to_string(),
        })?;
        line.push(b'\n');
        self.locked(|file, path| {
            let length = file.metadata().at("stat", path)?.len();
            if length > 0 && durable::read_at(file, path, length - 1, 1)? != b"\n" {
                line.insert(0, b'\n');
            }
            durable::append(file, path, &line).inspect_err(|_| {
                if let Err(e) = file.set_len(length) {
                    tracing::debug!("cut {}: {e}", path.display());
                }
            })
        })?;
        self.next += 1;
        Ok(())
    }

    fn locked(&mut self, work: impl FnOnce(&mut File, &Path) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        loop {
            match self.file.try_lock() {
                Ok(()) => break,
                Err(std::fs::TryLockError::WouldBlock) if start.elapsed() < LOCK_BUDGET => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(StorageError::Locked {
                        path: self.path.clone(),
                    });
                }
                Err(std::fs::TryLockError::Error(e)) if no_locks(&e) => {
                    // One appended write is whole even so where files have no locks.
                    return work(&mut self.file, &self.path);
                }
                Err(std::fs::TryLockError::Error(e)) => return Err(e).at("lock", &self.path),
            }
        }
        let done = work(&mut self.file, &self.path);
        self.file.unlock().at("unlock", &self.path)?;
        done
    }
}

/// Whether the file system knows no locks, or has none left.
fn no_locks(e: &std::io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NOLCK, Errno::NOSYS, Errno::OPNOTSUPP]
        .iter()
        .any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}

/// A line of the file that is no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MalformedLine {
    /// 1-based.
    pub line: usize,
    /// Why.
    pub what: String,
}

/// Every event that stands in the file now, and the lines that are none; a torn tail is not an error.
///
/// # Errors
/// When the file is there and can't be read.
pub fn read(path: &Path) -> Result<(Vec<serde_json::Value>, Vec<MalformedLine>)> {
    let bytes = durable::read_if_there(path)?.unwrap_or_default();
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1);
    let (mut events, mut malformed) = (Vec::new(), Vec::new());
    for (n, line) in bytes[..whole].split(|&b| b == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice::<serde_json::Value>(line) {
            Ok(value) if value.get("type").is_some_and(serde_json::Value::is_string) => {
                events.push(value);
            }
            Ok(_) => malformed.push(MalformedLine {
                line: n + 1,
                what: "no object with a \"type\"".to_owned(),
            }),
            Err(e) => malformed.push(MalformedLine {
                line: n + 1,
                what: e.to_string(),
            }),
        }
    }
    Ok((events, malformed))
}

#[cfg(test)]
mod tests {
    use expman_model::EventBody;

    use super::*;

    #[test]
    fn a_malformed_line_is_named_and_hides_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("events.jsonl");
        let mut log = EventLog::open(&path, "1").unwrap();
        log.append(&EventBody::Problem { what: "a".into() })
            .unwrap();
        std::io::Write::write_all(
            &mut File::options().append(true).open(&path).unwrap(),
            b"{broken",
        )
        .unwrap();
        log.append(&EventBody::Problem { what: "b".into() })
            .unwrap();
        std::io::Write::write_all(
            &mut File::options().append(true).open(&path).unwrap(),
            b"{\"torn",
        )
        .unwrap();
        let (events, malformed) = read(&path).unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(malformed.iter().map(|m| m.line).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn two_processes_worth_of_appends_interleave_by_line() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("events.jsonl");
        std::thread::scope(|s| {
            for p in 0..2 {
                let path = &path;
                s.spawn(move || {
                    let mut log = EventLog::open(path, p.to_string()).unwrap();
                    for _ in 0..100 {
                        log.append(&EventBody::Problem {
                            what: "x".repeat(500),
                        })
                        .unwrap();
                    }
                });
            }
        });
        let (events, malformed) = read(&path).unwrap();
        assert_eq!((events.len(), malformed.len()), (200, 0));
    }
}
