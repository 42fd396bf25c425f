//! Which folder a process's run is in: its own new one, or the one that its launch shares.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use expman_model::check_folder_name;
use expman_model::time::{local_run_name, now_us};
use expman_storage::{RunDir, durable};

use crate::error::{MeshError, Result};

/// How long the ranks of one launch wait for the first of them to choose a name.
const LOCK_BUDGET: Duration = Duration::from_secs(5);

/// The run's folder and whether this call made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The folder.
    pub dir: RunDir,
    /// The run's name.
    pub name: String,
    /// Whether it is new.
    pub made: bool,
}

/// Finds or makes the folder of a run.
///
/// With a name the folder is `base/experiment/name`. Without one it is named by the local time at which the first
/// process came, made unique by a number if need be; all processes with the same `launch_key` get the same one.
///
/// # Errors
/// When a name is not allowed, or a folder can't be made.
pub fn place(
    base: &Path,
    experiment: &str,
    name: Option<&str>,
    launch_key: Option<&str>,
) -> Result<Place> {
    check_folder_name("experiment name", experiment)?;
    if let Some(name) = name {
        check_folder_name("run name", name)?;
    }
    let base = absolute(base)?;
    let home = base.join(experiment);
    fs::create_dir_all(&home).map_err(MeshError::io("create folder", &home))?;
    if let Some(name) = name {
        let dir = RunDir::under(&base, experiment, name)?;
        let made = make(dir.root())?;
        return Ok(Place {
            dir,
            name: name.to_owned(),
            made,
        });
    }
    let Some(launch_key) = launch_key else {
        let name = make_by_time(&home)?;
        return Ok(Place {
            dir: RunDir::under(&base, experiment, &name)?,
            name,
            made: true,
        });
    };
    let launches = home.join(".launches");
    fs::create_dir_all(&launches).map_err(MeshError::io("create folder", &launches))?;
    let path = launches.join(&blake3::hash(launch_key.as_bytes()).to_hex()[..32]);
    let file = durable::open_rw(&path)?;
    lock(&file, &path)?;
    let known = String::from_utf8_lossy(&durable::read(&path)?).into_owned();
    if check_folder_name("run name", &known).is_ok() && home.join(&known).is_dir() {
        return Ok(Place {
            dir: RunDir::under(&base, experiment, &known)?,
            name: known,
            made: false,
        });
    }
    let name = make_by_time(&home)?;
    // In place: the lock belongs to this file, not to its name.
    file.write_all_at(name.as_bytes(), 0)
        .and_then(|()| file.sync_all())
        .map_err(MeshError::io("write", &path))?;
    Ok(Place {
        dir: RunDir::under(&base, experiment, &name)?,
        name,
        made: true,
    })
}

/// Makes a folder named by the local time, with a number behind it when two start in one second.
fn make_by_time(home: &Path) -> Result<String> {
    let stamp = local_run_name(now_us());
    let mut name = stamp.clone();
    let mut n = 1;
    while !make(&home.join(&name))? {
        name = format!("{stamp}_{n}");
        n += 1;
    }
    Ok(name)
}

fn absolute(base: &Path) -> Result<PathBuf> {
    fs::create_dir_all(base).map_err(MeshError::io("create folder", base))?;
    fs::canonicalize(base).map_err(MeshError::io("resolve", base))
}

/// Makes a folder; false when it stood there.
fn make(path: &Path) -> Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(MeshError::io("create folder", path)(e)),
    }
}

fn lock(file: &File, path: &Path) -> Result<()> {
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(fs::TryLockError::WouldBlock) if start.elapsed() < LOCK_BUDGET => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(fs::TryLockError::WouldBlock) => {
                return Err(expman_storage::StorageError::Locked {
                    path: path.to_owned(),
                }
                .into());
            }
            Err(fs::TryLockError::Error(e)) => return Err(MeshError::io("lock", path)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_launch_shares_a_folder_and_two_launches_do_not() {
        let tmp = tempfile::tempdir().unwrap();
        let first = place(tmp.path(), "e", None, Some("launch a")).unwrap();
        let second = place(tmp.path(), "e", None, Some("launch a")).unwrap();
        let other = place(tmp.path(), "e", None, Some("launch b")).unwrap();
        assert!(first.made && !second.made && other.made);
        assert_eq!(first.dir, second.dir);
        assert_ne!(first.dir, other.dir);
    }

    #[test]
    fn bad_names_are_refused_before_anything_is_made() {
        let tmp = tempfile::tempdir().unwrap();
        let base = tmp.path().join("base");
        assert!(place(&base, "../e", None, None).is_err());
        assert!(place(&base, "e", Some(""), None).is_err());
        assert!(!base.exists());
    }
}
