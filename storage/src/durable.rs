//! Writing so that it is still there after a crash: temporary file, fsync, rename, fsync of the folder.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{At, Result};

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
    file.sync_all().at("sync", tmp)?;
    fs::rename(tmp, path).at("rename", tmp)?;
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
    let tmp = temporary(path);
    let mut file = create(&tmp)?;
    file.write_all(content).at("write", &tmp)?;
    publish(&tmp, &file, path)
}

/// Creates an empty file for writing, cutting what stood there.
///
/// # Errors
/// When it can't be created.
pub fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .read(true)
        .mode(0o640)
        .open(path)
        .at("create", path)
}

/// Opens a file for writing at known places, keeping its content.
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
        .open(path)
        .at("open", path)
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
    crate::plain::read(path).at("read", path)
}

/// Reads a whole file if it is there.
///
/// # Errors
/// When it is there and can't be read.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match crate::plain::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).at("read", path),
    }
}

/// Reads at most `max` bytes from `offset` on.
///
/// # Errors
/// When reading fails.
pub fn read_at(file: &File, path: &Path, offset: u64, max: usize) -> Result<Vec<u8>> {
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
