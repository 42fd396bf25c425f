//! Captured output as a record.

use super::{Stream, put_bytes, put_record};
use crate::codec::{CodecError, Reader};

/// Kind byte of a record of captured output.
pub const KIND_CONSOLE: u8 = 3;

/// Appends a line of captured output, or a piece of one, without a number.
pub fn put_console(
    out: &mut Vec<u8>,
    timestamp_us: i64,
    stream: Stream,
    line: &[u8],
    ends_line: bool,
) {
    put_record(out, KIND_CONSOLE, 0, timestamp_us, |out| {
        put_console_body(out, stream, ends_line, line);
    });
}

pub(super) fn put_console_body(out: &mut Vec<u8>, stream: Stream, ends_line: bool, line: &[u8]) {
    out.push(u8::from(stream == Stream::Err));
    out.push(u8::from(ends_line));
    put_bytes(out, line);
}

/// Reads the body of a console record: the stream, whether the line ends, its bytes.
///
/// # Errors
/// When the bytes are none.
pub fn take_console<'a>(r: &mut Reader<'a>) -> Result<(Stream, bool, &'a [u8]), CodecError> {
    let stream = if r.u8("stream")? == 0 {
        Stream::Out
    } else {
        Stream::Err
    };
    let ends_line = r.u8("line end")? != 0;
    Ok((stream, ends_line, r.bytes("console bytes")?))
}
