//! Opening a run's files for reading: a folder may come from a stranger, so plain files only.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a plain file; a link is refused, since it may lead anywhere, and a pipe, since it may never end.
///
/// # Errors
/// When it is not there, can't be read, or is no plain file.
pub fn open(path: &Path) -> io::Result<File> {
    // Without waiting: a pipe would keep its reader until somebody writes.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        let what = "it is no plain file";
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }
}

/// Reads a whole plain file.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_folders_and_pipes_are_refused_at_once() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        File::create(at("file")).unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(at("pipe"))
            .status();
        assert!(made.unwrap().success());
        assert!(open(&at("file")).is_ok());
        for name in ["link", "pipe", "."] {
            assert!(open(&at(name)).is_err(), "{name}");
        }
        let missing = open(&at("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
