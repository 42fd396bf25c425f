//! Reading a text at any place, whatever becomes of its files meanwhile.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::LogKind;
use super::packed::Packed;
use super::pieces::{Piece, base, pieces, settled};
use crate::durable;
use crate::error::{At, Result, StorageError};
use crate::layout::RunDir;

/// How often the file that has a place is looked for while files move.
const TRIES: usize = 100;

/// Bytes of a text.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// Where they begin: where they were asked for, or behind a piece that is missing there.
    pub(crate) at: u64,
    /// None when there are no more yet.
    pub(crate) bytes: Vec<u8>,
    /// They end with their piece, which never grows: what stands behind them begins a record.
    pub(crate) ends_piece: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct TextReader {
    dir: RunDir,
    kind: LogKind,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    from: u64,
    /// The current file has none.
    to: Option<u64>,
    path: PathBuf,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Plain(File),
    Packed(Box<Packed>),
}

impl TextReader {
    pub(crate) fn new(dir: &RunDir, kind: LogKind) -> Self {
        Self {
            dir: dir.clone(),
            kind,
            open: None,
        }
    }

    /// At most `max` bytes of one file from `at` on.
    ///
    /// # Errors
    /// When a file is there and can't be read, or a piece is not what its name says.
    pub(crate) fn read(&mut self, at: u64, max: usize) -> Result<Chunk> {
        let mut chunk = Chunk {
            at,
            ..Chunk::default()
        };
        for _ in 0..TRIES {
            let covers =
                |open: &Open| open.from <= chunk.at && open.to.is_none_or(|to| chunk.at < to);
            if !self.open.as_ref().is_some_and(covers) && !self.find(&mut chunk.at)? {
                return Ok(chunk);
            }
            let Some(open) = &mut self.open else {
                continue;
            };
            chunk.bytes = open.read(chunk.at, max)?;
            if !chunk.bytes.is_empty() {
                let end = chunk.at + chunk.bytes.len() as u64;
                chunk.ends_piece = open.to == Some(end);
                return Ok(chunk);
            }
            if open.to.is_some() {
                return Err(StorageError::Damaged {
                    path: open.path.clone(),
                    offset: chunk.at - open.from,
                    what: "it is shorter than its name says".to_owned(),
                });
            }
            if open.is_current()? {
                return Ok(chunk);
            }
            // It was rolled: what was added to it meanwhile stands in a piece.
            self.open = None;
        }
        Err(StorageError::Damaged {
            path: self.dir.text(self.kind),
            offset: chunk.at,
            what: "its pieces change faster than they can be read".to_owned(),
        })
    }

    /// Opens the file that has this place, or the next one when a piece is missing there; false when there is none.
    fn find(&mut self, at: &mut u64) -> Result<bool> {
        self.open = None;
        let all = pieces(&self.dir, self.kind)?;
        if *at < base(&all) {
            let has = |p: &&Piece| p.from <= *at && *at < p.to;
            let next = all.iter().filter(|p| p.from > *at);
            let piece = all.iter().find(has);
            let Some(piece) = piece.or_else(|| next.min_by_key(|p| p.from)) else {
                return Ok(false);
            };
            *at = piece.from.max(*at);
            self.open = match Open::piece(piece) {
                Ok(open) => Some(open),
                // It is packed by now: it is looked for once more.
                Err(e) if e.is_not_found() => None,
                Err(e) => return Err(e),
            };
            return Ok(true);
        }
        let path = self.dir.text(self.kind);
        let current = || match durable::open_read(&path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        };
        let (from, file) = settled(&self.dir, self.kind, current)?;
        // Between the listing and the opening it may have been rolled.
        if from > *at {
            return Ok(true);
        }
        let there = file.is_some();
        self.open = file.map(|file| Open {
            from,
            to: None,
            path: path.clone(),
            body: Body::Plain(file),
        });
        Ok(there)
    }
}

impl Open {
    fn piece(piece: &Piece) -> Result<Self> {
        let path = piece.path.clone();
        let body = if piece.packed {
            Body::Packed(Box::new(Packed::open(&path, piece.to - piece.from)?))
        } else {
            Body::Plain(durable::open_read(&path)?)
        };
        Ok(Self {
            from: piece.from,
            to: Some(piece.to),
            path,
            body,
        })
    }

    fn read(&mut self, at: u64, max: usize) -> Result<Vec<u8>> {
        let rest = self.to.map_or(u64::MAX, |to| to - at);
        let max = usize::try_from(rest).unwrap_or(usize::MAX).min(max);
        match &mut self.body {
            Body::Plain(file) => durable::read_at(file, &self.path, at - self.from, max),
            Body::Packed(packed) => packed.read_at(at - self.from, max),
        }
    }

    /// Whether the name still means the file that is open.
    fn is_current(&self) -> Result<bool> {
        let Body::Plain(file) = &self.body else {
            return Ok(false);
        };
        let own = file.metadata().at("stat", &self.path)?;
        match std::fs::metadata(&self.path) {
            Ok(now) => Ok((now.dev(), now.ino()) == (own.dev(), own.ino())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e).at("stat", &self.path),
        }
    }
}
