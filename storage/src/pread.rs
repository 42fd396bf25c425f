//! A file that many read at once, each at its own place.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use parquet::file::reader::{ChunkReader, Length};

/// A file for Parquet's decoder, which by itself would move the one cursor that all copies of a descriptor share.
#[derive(Debug, Clone)]
pub struct Shared {
    file: Arc<File>,
    length: u64,
}

/// Reads on from a place.
#[derive(Debug)]
pub struct From {
    file: Arc<File>,
    at: u64,
}

impl Shared {
    /// A file as long as it is now.
    ///
    /// # Errors
    /// When it can't be looked at.
    pub fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self {
            file: Arc::new(file),
            length,
        })
    }

    /// The file itself.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Length for Shared {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Shared {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BufReader::new(From {
            file: Arc::clone(&self.file),
            at: start,
        }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        // What a damaged file claims is not made ready before it is known to be there.
        if start.saturating_add(length as u64) > self.length {
            return Err(parquet::errors::ParquetError::EOF(format!(
                "{length} bytes at {start}, and the file has {}",
                self.length
            )));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

impl Read for From {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(to, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
