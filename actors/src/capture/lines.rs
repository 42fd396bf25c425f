//! Lines of a stream of bytes.

use expman_model::limits::CONSOLE_CHUNK_BYTES;
use memchr::memchr;

/// Bytes of a line that has not ended.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Splits at newlines; a line beyond the chunk size goes on in the next record.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8], bool)) {
        while let Some(n) = memchr(b'\n', bytes) {
            let (end, behind) = (&bytes[..n], &bytes[n + 1..]);
            let line = if self.rest.is_empty() {
                end
            } else {
                self.rest.extend_from_slice(end);
                &self.rest
            };
            for (last, chunk) in chunks(line) {
                each(chunk, last);
            }
            self.rest.clear();
            bytes = behind;
        }
        self.rest.extend_from_slice(bytes);
        while self.rest.len() > CONSOLE_CHUNK_BYTES {
            each(&self.rest[..CONSOLE_CHUNK_BYTES], false);
            self.rest.drain(..CONSOLE_CHUNK_BYTES);
        }
    }

    /// The line that never ended.
    pub(crate) fn end(&mut self, mut each: impl FnMut(&[u8], bool)) {
        if !self.rest.is_empty() {
            each(&self.rest, true);
            self.rest.clear();
        }
    }
}

fn chunks(line: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    let n = line.len().div_ceil(CONSOLE_CHUNK_BYTES).max(1);
    (0..n).map(move |i| {
        let end = line.len().min((i + 1) * CONSOLE_CHUNK_BYTES);
        (i + 1 == n, &line[i * CONSOLE_CHUNK_BYTES..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_and_long_ones_are_chunked() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        lines.feed(b"one\ntw", |b, last| seen.push((b.to_vec(), last)));
        lines.feed(b"o\n\nrest", |b, last| seen.push((b.to_vec(), last)));
        lines.end(|b, last| seen.push((b.to_vec(), last)));
        let texts: Vec<_> = seen
            .iter()
            .map(|(b, _)| String::from_utf8_lossy(b).into_owned())
            .collect();
        assert_eq!(texts, ["one", "two", "", "rest"]);
        let long = [vec![b'x'; CONSOLE_CHUNK_BYTES * 2 + 5], vec![b'\n']].concat();
        let mut chunks = Vec::new();
        lines.feed(&long, |b, last| chunks.push((b.len(), last)));
        assert_eq!(
            chunks,
            [
                (CONSOLE_CHUNK_BYTES, false),
                (CONSOLE_CHUNK_BYTES, false),
                (5, true)
            ]
        );
    }
}
