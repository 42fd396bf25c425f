//! A disk that fails and a power that goes: what the tests of this crate put between the writer and the kernel.
//!
//! It knows for every file what a sync has made durable, so that a test can ask for the folder as it is after a power
//! cut, and it fails writes, syncs and renames when it is told to. Folders are told apart by their path, so tests run
//! beside each other, and the sealing thread is under it, too.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A call that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Write,
    Sync,
    Rename,
}

/// What happens to the calls of one kind that come next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    /// Calls that still go well.
    pub(crate) after: u32,
    /// Calls that then fail.
    pub(crate) times: u32,
    pub(crate) error: rustix::io::Errno,
}

#[derive(Debug, Default)]
struct Disk {
    faults: Vec<Fault>,
    files: HashMap<u64, OnDisk>,
}

/// One file, by its inode.
#[derive(Debug, Default)]
struct OnDisk {
    durable: Vec<u8>,
    /// Bytes that a failed sync has taken from the kernel: no later sync writes them, unless they are written again.
    dropped: Vec<(u64, u64)>,
}

static DISKS: Mutex<Vec<(PathBuf, Disk)>> = Mutex::new(Vec::new());

fn disks() -> MutexGuard<'static, Vec<(PathBuf, Disk)>> {
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches everything below a folder from now on.
pub(crate) fn watch(root: &Path) {
    disks().push((root.to_owned(), Disk::default()));
}

/// Lets calls below a folder fail.
pub(crate) fn fail(root: &Path, fault: Fault) {
    on(root, |disk| disk.faults.push(fault));
}

/// Everything works again.
pub(crate) fn mend(root: &Path) {
    on(root, |disk| disk.faults.clear());
}

fn on<T>(path: &Path, work: impl FnOnce(&mut Disk) -> T) -> Option<T> {
    let mut disks = disks();
    let (_, disk) = disks.iter_mut().find(|(root, _)| path.starts_with(root))?;
    Some(work(disk))
}

impl Disk {
    fn fails(&mut self, call: Call) -> Option<rustix::io::Errno> {
        let fault = self
            .faults
            .iter_mut()
            .find(|f| f.call == call && f.times > 0)?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        fault.times -= 1;
        Some(fault.error)
    }
}

/// A file was made, or cut to nothing: what was known of its inode is over.
pub(crate) fn created(file: &File, path: &Path) {
    on(path, |disk| {
        if let Ok(meta) = file.metadata() {
            disk.files.insert(meta.ino(), OnDisk::default());
        }
    });
}

/// A write that fails has written half of its bytes.
pub(crate) fn write(file: &File, path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
    on(path, |disk| {
        if let Some(error) = disk.fails(Call::Write) {
            file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(error.into());
        }
        let end = offset + bytes.len() as u64;
        let on_disk = disk.files.entry(file.metadata()?.ino()).or_default();
        on_disk.dropped = on_disk
            .dropped
            .iter()
            .flat_map(|&(from, to)| [(from, to.min(offset)), (from.max(end), to)])
            .filter(|(from, to)| from < to)
            .collect();
        Ok(())
    })
    .unwrap_or(Ok(()))
}

pub(crate) fn sync(file: &File, path: &Path) -> io::Result<()> {
    on(path, |disk| {
        let failed = disk.fails(Call::Sync);
        let meta = file.metadata()?;
        let mut now = vec![0; usize::try_from(meta.len()).unwrap_or(0)];
        file.read_exact_at(&mut now, 0)?;
        let on_disk = disk.files.entry(meta.ino()).or_default();
        if let Some(error) = failed {
            on_disk
                .dropped
                .push((on_disk.durable.len() as u64, now.len() as u64));
            return Err(error.into());
        }
        for &(from, to) in &on_disk.dropped {
            let range =
                usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0).min(now.len());
            now.get_mut(range).unwrap_or_default().fill(0);
        }
        on_disk.durable = now;
        Ok(())
    })
    .unwrap_or(Ok(()))
}

pub(crate) fn rename(from: &Path) -> io::Result<()> {
    match on(from, |disk| disk.fails(Call::Rename)).flatten() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Cuts the power: every file below `root` keeps what was synced and as much of the rest as `luck` (0 to 255) lets it.
pub(crate) fn power_cut(root: &Path, mut luck: impl FnMut() -> u8) -> io::Result<()> {
    mend(root);
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let meta = std::fs::metadata(&path)?;
            if meta.is_dir() {
                folders.push(path);
                continue;
            }
            let known = on(root, |disk| {
                let on_disk = disk.files.get(&meta.ino())?;
                Some((on_disk.durable.clone(), on_disk.dropped.clone()))
            })
            .flatten();
            // What this crate writes without ever syncing it (events, the lock) may stay as it is.
            let Some((durable, dropped)) = known else {
                continue;
            };
            let mut now = std::fs::read(&path)?;
            for (from, to) in dropped {
                let range = usize::try_from(from).unwrap_or(0)
                    ..usize::try_from(to).unwrap_or(0).min(now.len());
                now.get_mut(range).unwrap_or_default().fill(0);
            }
            let rest = now.len().saturating_sub(durable.len());
            let kept = durable.len() + rest * usize::from(luck()) / 255;
            let mut after = now;
            after.truncate(kept);
            after.resize(after.len().max(durable.len()), 0);
            after[..durable.len()].copy_from_slice(&durable);
            let file = File::options().write(true).open(&path)?;
            file.set_len(after.len() as u64)?;
            file.write_all_at(&after, 0)?;
        }
    }
    Ok(())
}
