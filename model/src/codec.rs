//! Little-endian primitives shared by everything that is encoded by hand.

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end inside a field.
    #[error("bytes end inside {0}")]
    Truncated(&'static str),
    /// A field has a value that no writer produces.
    #[error("{what} has the unknown value {value}")]
    Unknown {
        /// The field.
        what: &'static str,
        /// What stood there.
        value: u64,
    },
    /// A text field is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// A structure is nested deeper than any writer nests it.
    #[error("{0} is nested too deeply")]
    TooDeep(&'static str),
}

/// Reads fields from the front of a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What is left.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything was read.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    #[inline]
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let (head, rest) = self
            .rest
            .split_at_checked(n)
            .ok_or(CodecError::Truncated(what))?;
        self.rest = rest;
        Ok(head)
    }

    /// A fixed array.
    ///
    /// # Errors
    /// When fewer bytes are left.
    #[inline]
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(CodecError::Truncated(what))?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// When nothing is left.
    #[inline]
    pub fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// A `u32`.
    ///
    /// # Errors
    /// When fewer bytes are left.
    #[inline]
    pub fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A `u64`.
    ///
    /// # Errors
    /// When fewer bytes are left.
    #[inline]
    pub fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// An `i64`.
    ///
    /// # Errors
    /// When fewer bytes are left.
    #[inline]
    pub fn i64(&mut self, what: &'static str) -> Result<i64, CodecError> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    /// Bytes behind their `u32` length.
    ///
    /// # Errors
    /// When fewer bytes are left than the length says.
    #[inline]
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], CodecError> {
        let n = self.u32(what)? as usize;
        self.take(n, what)
    }

    /// UTF-8 text behind its `u32` length.
    ///
    /// # Errors
    /// When it is cut off or not UTF-8.
    pub fn str(&mut self, what: &'static str) -> Result<&'a str, CodecError> {
        let bytes = self.bytes(what)?;
        std::str::from_utf8(bytes).map_err(|_not_utf8| CodecError::NotUtf8(what))
    }
}

/// Appends `bytes` behind their `u32` length.
///
/// Callers hold what they encode below [`crate::limits::FRAME_BYTES_MAX`], so the length always fits.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let n = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&n.to_le_bytes());
    out.extend_from_slice(&bytes[..n as usize]);
}
