//! The pieces of a text that was rolled: which there are, and where the current file begins.

use std::path::PathBuf;

use super::LogKind;
use crate::error::{At, Result, StorageError};
use crate::layout::{RunDir, names};

/// How often a folder is listed again while its files move.
const TRIES: usize = 100;

/// Bytes `[from, to)` of a text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// First byte.
    pub from: u64,
    /// One past the last one.
    pub to: u64,
    /// Whether it is packed; while it is being packed it stands there twice.
    pub packed: bool,
    /// Where it is.
    pub path: PathBuf,
}

impl Piece {
    /// Where its packed form is, or will be.
    pub(crate) fn packed_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        if !self.packed {
            name.push(".zst");
        }
        name.into()
    }
}

impl RunDir {
    /// The file to which a text is written.
    #[must_use]
    pub fn text(&self, kind: LogKind) -> PathBuf {
        match kind {
            LogKind::Run => self.run_log(),
            LogKind::Console => self.console_log(),
        }
    }

    /// The name of bytes `[from, to)` of a text.
    pub(crate) fn piece(&self, kind: LogKind, from: u64, to: u64) -> PathBuf {
        let stem = kind.stem();
        self.root()
            .join(format!("{stem}-{from:016x}-{to:016x}.log"))
    }
}

/// Every piece of a text, in order, the plain one first where it stands there twice.
///
/// # Errors
/// When the folder can't be listed.
pub fn pieces(dir: &RunDir, kind: LogKind) -> Result<Vec<Piece>> {
    let mut found = Vec::new();
    for (name, path) in names(dir.root())? {
        let Some(name) = name.strip_prefix(kind.stem()) else {
            continue;
        };
        let (name, packed) = match name.strip_suffix(".zst") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let range = name
            .strip_prefix('-')
            .and_then(|n| n.strip_suffix(".log")?.split_once('-'));
        let range = range.and_then(|(from, to)| Some((hex(from)?, hex(to)?)));
        if let Some((from, to)) = range.filter(|(from, to)| from < to) {
            found.push(Piece {
                from,
                to,
                packed,
                path,
            });
        }
    }
    found.sort();
    Ok(found)
}

/// A place in the text; what no file reaches is none.
fn hex(text: &str) -> Option<u64> {
    let plain = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    let number = u64::from_str_radix(text, 16).ok();
    number.filter(|n| text.len() == 16 && text.bytes().all(plain) && i64::try_from(*n).is_ok())
}

/// Where the current file begins.
pub(crate) fn base(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|p| p.to).max().unwrap_or(0)
}

/// The length of a text, over all of its pieces.
///
/// # Errors
/// When the folder or the file can't be looked at.
pub fn length(dir: &RunDir, kind: LogKind) -> Result<u64> {
    let path = dir.text(kind);
    settled(dir, kind, || match std::fs::metadata(&path) {
        Ok(meta) => Ok(meta.len()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e).at("stat", &path),
    })
    .map(|(base, length)| base + length)
}

/// Looks at the current file while it is known where it begins: the pieces are the same in front of it and behind.
pub(super) fn settled<T>(
    dir: &RunDir,
    kind: LogKind,
    mut look: impl FnMut() -> Result<T>,
) -> Result<(u64, T)> {
    let mut known = base(&pieces(dir, kind)?);
    for _ in 0..TRIES {
        let seen = look()?;
        let now = base(&pieces(dir, kind)?);
        if now == known {
            return Ok((now, seen));
        }
        known = now;
    }
    Err(StorageError::Damaged {
        path: dir.text(kind),
        offset: known,
        what: "its pieces change faster than they can be listed".to_owned(),
    })
}

/// Bytes that a text takes on the disk.
///
/// # Errors
/// When the folder can't be listed.
pub fn stored_bytes(dir: &RunDir, kind: LogKind) -> Result<u64> {
    let pieces = pieces(dir, kind)?.into_iter().map(|p| p.path);
    let files = pieces.chain([dir.text(kind)]);
    Ok(files
        .map(|path| std::fs::metadata(path).map_or(0, |meta| meta.len()))
        .sum())
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "files are made and damaged on purpose"
)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_by_their_names_and_nothing_else_is() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path());
        let own = dir.piece(LogKind::Run, 0, 16);
        for name in [
            own.file_name().unwrap().to_str().unwrap(),
            "run-0000000000000000-0000000000000010.log.zst",
            "run-0000000000000010-0000000000000030.log.zst",
            "console-0000000000000000-0000000000000040.log",
            "run-0000000000000030-0000000000000030.log",
            "run-0000000000000040-0000000000000030.log",
            "run-0-1.log",
            "run-0000000000000000-ffffffffffffffff.log",
            "run.log",
            "run-+000000000000000-0000000000000010.log",
            "rung-0000000000000000-0000000000000010.log",
        ] {
            std::fs::File::create(tmp.path().join(name)).unwrap();
        }
        let found = pieces(&dir, LogKind::Run).unwrap();
        let told: Vec<_> = found.iter().map(|p| (p.from, p.to, p.packed)).collect();
        assert_eq!(told, [(0, 16, false), (0, 16, true), (16, 48, true)]);
        assert_eq!(base(&found), 48);
        assert_eq!(found[0].packed_path(), found[1].path);
        std::fs::write(dir.run_log(), b"1234").unwrap();
        assert_eq!(length(&dir, LogKind::Run).unwrap(), 52);
        assert_eq!(length(&dir, LogKind::Console).unwrap(), 64);
    }
}
