//! Following one of the text files.

use memchr::{memchr, memmem};

use crate::error::Result;
use crate::layout::RunDir;
use crate::text::{Chunk, LineRef, LogKind, LogLine, TextReader, each_line, length};

/// Bytes of a text read at once, unless a record is longer …
const CHUNK_BYTES: usize = 4 << 20;
/// … than which none is: what goes on beyond that is no record of ours.
const RECORD_BYTES_MAX: usize = 64 << 20;
/// Bytes in which the next record is looked for.
const SEEK_BYTES: usize = 256 << 10;

/// Follows one of the text files, over all of its pieces; places are counted over all of them.
#[derive(Debug)]
pub struct TextTail {
    dir: RunDir,
    kind: LogKind,
    reader: TextReader,
    offset: u64,
    chunk_bytes: usize,
}

impl TextTail {
    /// A tail that begins at a byte offset where a record starts.
    #[must_use]
    pub fn new(dir: &RunDir, kind: LogKind, offset: u64) -> Self {
        Self {
            dir: dir.clone(),
            kind,
            reader: TextReader::new(dir, kind),
            offset,
            chunk_bytes: CHUNK_BYTES,
        }
    }

    /// The same tail, which reads about so many bytes at once: for whoever needs a few lines only.
    #[must_use]
    pub const fn by(mut self, bytes: usize) -> Self {
        self.chunk_bytes = bytes;
        self
    }

    /// A tail that begins at most `bytes` before the end of the text, at the start of a record.
    ///
    /// # Errors
    /// When a file is there and can't be read.
    pub fn near_end(dir: &RunDir, kind: LogKind, bytes: u64) -> Result<Self> {
        Self::near(dir, kind, length(dir, kind)?.saturating_sub(bytes))
    }

    /// A tail that begins at or a little behind a byte offset, at the start of a record.
    ///
    /// # Errors
    /// When a file is there and can't be read.
    pub fn near(dir: &RunDir, kind: LogKind, offset: u64) -> Result<Self> {
        let mut tail = Self::new(dir, kind, offset);
        let end = length(dir, kind)?;
        if offset == 0 {
            return Ok(tail);
        }
        loop {
            let chunk = tail.reader.read(tail.offset, SEEK_BYTES)?;
            // Whatever stands behind a missing piece begins a record.
            if chunk.bytes.is_empty() || chunk.at > tail.offset {
                tail.offset = chunk.at;
                return Ok(tail);
            }
            if let Some(n) = memmem::find(&chunk.bytes, b"\n[") {
                tail.offset += n as u64 + 1;
                return Ok(tail);
            }
            tail.offset += chunk.bytes.len() as u64;
            if chunk.ends_piece || tail.offset >= end {
                return Ok(tail);
            }
            // The last byte may be the newline in front of the next record.
            tail.offset -= 1;
        }
    }

    /// Where the next record begins.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// How long the text is now; less than [`TextTail::offset`] when it was cut.
    ///
    /// # Errors
    /// When the files can't be looked at.
    pub fn length(&self) -> Result<u64> {
        length(&self.dir, self.kind)
    }

    /// The records that are new since the last call, a bounded number; call again while [`TextTail::offset`] moves.
    ///
    /// # Errors
    /// When a file is there and can't be read.
    pub fn poll(&mut self) -> Result<Vec<LogLine>> {
        self.poll_where(|_| true)
    }

    /// [`TextTail::poll`], where bytes that are not `wanted` are passed over without being taken apart.
    ///
    /// # Errors
    /// As [`TextTail::poll`].
    pub fn poll_where(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        self.poll_each(wanted, |line| lines.push(line.to_line()))?;
        Ok(lines)
    }

    /// [`TextTail::poll_where`], which hands the records over where they lie.
    ///
    /// # Errors
    /// As [`TextTail::poll`].
    pub fn poll_each(
        &mut self,
        wanted: impl Fn(&[u8]) -> bool,
        mut each: impl FnMut(&LineRef<'_>),
    ) -> Result<()> {
        let mut max = self.chunk_bytes;
        loop {
            let chunk = self.reader.read(self.offset, max)?;
            if chunk.bytes.is_empty() {
                return Ok(());
            }
            self.offset = chunk.at;
            let full = chunk.bytes.len() >= max && !chunk.ends_piece;
            if !wanted(&chunk.bytes)
                && let Some(passed) = passed_over(&chunk)
            {
                self.offset += passed as u64;
                return Ok(());
            }
            // Whether the last record goes on is not known when more stands behind it, so it is told one late.
            let mut last = None;
            let mut used = each_line(
                self.kind,
                &chunk.bytes,
                chunk.at,
                chunk.ends_piece,
                |line| {
                    if let Some(before) = last.replace(line) {
                        each(&before);
                    }
                },
            );
            match last {
                Some(line) if full && used == chunk.bytes.len() => {
                    used = usize::try_from(line.offset - chunk.at).unwrap_or(used);
                }
                Some(line) => each(&line),
                None => {}
            }
            let rest = &chunk.bytes[used..];
            if used == 0 && full && max < RECORD_BYTES_MAX {
                max *= 4;
                continue;
            }
            self.offset += used as u64;
            if !rest.is_empty() && (chunk.ends_piece || (used == 0 && full)) {
                // No record: the end of a piece that another program changed, or a line without an end.
                let line = memchr(b'\n', rest).map_or(rest.len(), |n| n + 1);
                let text = rest[..line].strip_suffix(b"\n").unwrap_or(&rest[..line]);
                each(&LineRef::foreign(text, self.offset));
                self.offset += line as u64;
            }
            return Ok(());
        }
    }
}

/// How much of a chunk may be left out: up to the last record that begins in it, of which it is seen whether it is whole
/// when more is read; all of it when nothing comes behind.
fn passed_over(chunk: &Chunk) -> Option<usize> {
    if chunk.ends_piece {
        return Some(chunk.bytes.len());
    }
    memmem::rfind(&chunk.bytes, b"\n[").map(|n| n + 1)
}
