//! What a peer sends over a link.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use expman_actors::link::carrier::FrameReader;
use expman_actors::link::frame::{Frame, HEADER_BYTES};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Runtime;

use crate::input::Input;

/// The first byte chooses: a frame's own bytes, or a stream that arrives in pieces.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte();
    if choice.is_multiple_of(2) {
        body(input.rest());
    } else {
        stream(choice, input.rest());
    }
}

/// A body under a right checksum: what is understood means the same when it is sent on.
fn body(bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let Ok(frame) = Frame::decode(&Bytes::copy_from_slice(bytes), crc32c::crc32c(bytes)) else {
        return;
    };
    let mut out = BytesMut::new();
    if frame.encode(&mut out).is_err() {
        return;
    }
    let header = out[..HEADER_BYTES].try_into().expect("a whole header");
    let (length, crc) = Frame::header(header).expect("a header of ours");
    assert_eq!(length, out.len() - HEADER_BYTES, "the length of {frame:?}");
    let again = Frame::decode(&out.freeze().slice(HEADER_BYTES..), crc);
    assert_eq!(again.expect("a frame of ours"), frame);
}

thread_local! {
    static RUNTIME: RefCell<Runtime> = RefCell::new(
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
    );
}

/// However a stream is cut into pieces, the same frames come out, and it ends.
fn stream(choice: u8, bytes: &[u8]) {
    // Half of the inputs get their checksums set right, so that what is behind them is reached.
    let bytes = if choice & 2 == 0 {
        bytes.to_vec()
    } else {
        mended(bytes)
    };
    let whole = frames(bytes.clone(), usize::MAX);
    let pieces = frames(bytes, usize::from(choice >> 2) + 1);
    assert_eq!(whole, pieces, "frames depend on how the stream was cut");
}

fn frames(bytes: Vec<u8>, piece: usize) -> (Vec<Frame>, Option<String>) {
    let mut reader = FrameReader::new(Box::new(Pieces {
        bytes,
        at: 0,
        piece,
    }));
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            let mut found = Vec::new();
            loop {
                match reader.next().await {
                    Ok(Some(frame)) => found.push(frame),
                    Ok(None) => return (found, None),
                    Err(e) => return (found, Some(e.to_string())),
                }
            }
        })
    })
}

/// Sets the checksum of every frame whose length is possible.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let mut at = 0;
    while let Some(header) = out.get(at..at + HEADER_BYTES) {
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = at + HEADER_BYTES;
        let Some(content) = body.checked_add(length).and_then(|end| out.get(body..end)) else {
            break;
        };
        let crc = crc32c::crc32c(content).to_le_bytes();
        out[at + 4..at + 8].copy_from_slice(&crc);
        at = body + length;
    }
    out
}

/// A stream that hands out at most so many bytes at once.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let n = (self.bytes.len() - self.at)
            .min(self.piece)
            .min(buffer.remaining());
        buffer.put_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Poll::Ready(Ok(()))
    }
}
