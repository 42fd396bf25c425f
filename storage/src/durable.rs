//! Writing so that it is still there after a crash: temporary file, fsync, rename, fsync of the folder.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::{At, Result};
use crate::lock::Fence;

/// The name beside `path` under which its next content is written.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Makes the names in a folder durable.
///
/// # Errors
/// When the folder can't be opened or synced.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .at("sync folder", dir)
}

/// Puts a finished temporary file in place of `path`.
///
/// # Errors
/// When the sync or the rename fails; `path` then has its old content.
pub fn publish(tmp: &Path, file: &File, path: &Path) -> Result<()> {
    sync_all(file, tmp)?;
    rename(tmp, path)?;
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

/// Replaces the content of `path`, all or nothing.
///
/// # Errors
/// When any step fails; `path` then has its old content.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    prepare(path, content)?.publish(None)
}

/// Replaces the content of `path`, all or nothing, for as long as this machine runs: what only tells of a living
/// process may be gone, or empty, when that has ended with the machine.
///
/// # Errors
/// When any step fails; `path` then has its old content.
pub fn put(path: &Path, content: &[u8]) -> Result<()> {
    prepare(path, content)?.place()
}

/// Writes what is to replace the content of `path`.
///
/// # Errors
/// When it can't be written.
pub(crate) fn prepare(path: &Path, content: &[u8]) -> Result<Prepared> {
    let next = Prepared::new(path)?;
    write_at(&next.file, &next.tmp, content, 0)?;
    Ok(next)
}

/// The next content of a file, under a temporary name; dropped before it is published it leaves nothing.
///
/// The name is of this process alone: an owner that was replaced while it stood still must not touch the next one's.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) tmp: PathBuf,
    pub(crate) file: File,
    path: PathBuf,
}

impl Prepared {
    /// Begins with nothing.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.tmp", std::process::id()));
        let tmp = path.with_file_name(name);
        Ok(Self {
            file: create(&tmp)?,
            tmp,
            path: path.to_owned(),
        })
    }

    /// Puts it in its place with a content that is durable; its name will be with the next [`sync_dir`].
    pub(crate) fn settle(self) -> Result<()> {
        sync_all(&self.file, &self.tmp)?;
        self.place()
    }

    /// Puts it in its place, durable or not: for what can be made again.
    pub(crate) fn place(mut self) -> Result<()> {
        fs::rename(&self.tmp, &self.path).at("rename", &self.tmp)?;
        self.tmp = PathBuf::new();
        Ok(())
    }

    /// Makes it durable and puts it in its place, unless the fence says that the place is another owner's.
    pub(crate) fn publish(mut self, fence: Option<&Fence>) -> Result<()> {
        sync_all(&self.file, &self.tmp)?;
        fence.map_or(Ok(()), Fence::check)?;
        rename(&self.tmp, &self.path)?;
        self.tmp = PathBuf::new();
        match self.path.parent() {
            Some(dir) if dir.as_os_str().is_empty() => sync_dir(Path::new(".")),
            Some(dir) => sync_dir(dir),
            None => Ok(()),
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.tmp.as_os_str().is_empty()
            && let Err(e) = fs::remove_file(&self.tmp)
        {
            tracing::debug!("remove {}: {e}", self.tmp.display());
        }
    }
}

/// Writes all of `bytes` at a known place; what an error leaves behind that place is undefined.
pub(crate) fn write_at(file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
    #[cfg(test)]
    crate::faults::write(file, path, bytes, offset).at("write", path)?;
    file.write_all_at(bytes, offset).at("write", path)
}

/// Writes all of `bytes` at the end of a file that was opened for appending.
pub(crate) fn append(mut file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
    #[cfg(test)]
    crate::faults::write(file, path, bytes, 0).at("append", path)?;
    file.write_all(bytes).at("append", path)
}

/// Makes a file's content durable.
///
/// After an error nothing that was written since the last success may be taken for durable, whatever a further call on
/// the same file says: the kernel reports a lost page once.
pub(crate) fn sync_data(file: &File, path: &Path) -> Result<()> {
    #[cfg(test)]
    crate::faults::sync(file, path).at("sync", path)?;
    file.sync_data().at("sync", path)
}

pub(crate) fn sync_all(file: &File, path: &Path) -> Result<()> {
    #[cfg(test)]
    crate::faults::sync(file, path).at("sync", path)?;
    file.sync_all().at("sync", path)
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    #[cfg(test)]
    crate::faults::rename(from).at("rename", from)?;
    fs::rename(from, to).at("rename", from)
}

/// Creates an empty file for writing, cutting what stood there.
///
/// # Errors
/// When it can't be created.
pub fn create(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .read(true)
        .mode(0o640)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .at("create", path)?;
    #[cfg(test)]
    crate::faults::created(&file, path);
    Ok(file)
}

/// Opens a file for writing at known places, keeping its content; a link is not followed, which might lead out of the run.
///
/// # Errors
/// When it can't be opened or created.
pub fn open_rw(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .mode(0o640)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .at("open", path)
}

/// Opens a file of a run for reading.
///
/// A run's folder may come from a stranger: a link in it may lead out of it, and a pipe or a device never end.
///
/// # Errors
/// When it can't be opened, or is no plain file.
pub fn open_read(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .map_err(|e| match Errno::from_io_error(&e) {
            Some(Errno::LOOP) => std::io::Error::other("it is a link, which may lead anywhere"),
            _ => e,
        })
        .at("open", path)?;
    if file.metadata().at("stat", path)?.is_file() {
        Ok(file)
    } else {
        Err(std::io::Error::other("it is no plain file")).at("open", path)
    }
}

/// Creates a folder and the missing ones above it.
///
/// # Errors
/// When one can't be created.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).at("create folder", path)
}

/// Reads a whole file.
///
/// # Errors
/// When it can't be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_read(path)?.read_to_end(&mut bytes).at("read", path)?;
    Ok(bytes)
}

/// Reads a whole file if it is there.
///
/// # Errors
/// When it is there and can't be read.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match read(path) {
        Err(e) if e.is_not_found() => Ok(None),
        bytes => bytes.map(Some),
    }
}

/// Reads at most `max` bytes from `offset` on; none where no file can have any.
///
/// # Errors
/// When reading fails.
pub fn read_at(file: &File, path: &Path, offset: u64, max: usize) -> Result<Vec<u8>> {
    if i64::try_from(offset.saturating_add(max as u64)).is_err() {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; max];
    let mut filled = 0;
    while filled < max {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).at("read", path),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Copies a file's content and returns its size.
///
/// # Errors
/// When reading or writing fails.
pub fn copy(
    from: &Path,
    to: &mut File,
    to_path: &Path,
    mut each: impl FnMut(&[u8]),
) -> Result<u64> {
    let mut source = File::open(from).at("open", from)?;
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let n = source.read(&mut buffer).at("read", from)?;
        if n == 0 {
            return Ok(total);
        }
        each(&buffer[..n]);
        to.write_all(&buffer[..n]).at("write", to_path)?;
        total += n as u64;
    }
}
