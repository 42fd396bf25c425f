//! Frames of metric points for streams, each encoded once for all clients that stand at the same place.
//!
//! A frame is known by the row that it begins at. Who comes there later gets the frame that the first one got, and
//! goes on behind it, so clients of one run stay in step whatever their pace.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use expman_storage::Rows;

use crate::cursor::Cursor;
use crate::ring::{OutOfReach, Piece};
use crate::series::{Series, exact};

/// Rows of one frame; what is more comes in the next one. A client that does not read holds three of them.
pub const FRAME_ROWS: usize = 1 << 12;
/// Frames kept of one run …
const FRAMES_MAX: usize = 256;
/// … and their bytes.
const BYTES_MAX: usize = 8 << 20;

/// Which metrics a client wants; none: all.
pub type Keys = Option<Arc<BTreeSet<String>>>;

/// Points of one run.
#[derive(Debug)]
pub struct Frame {
    /// Position behind its rows.
    pub end: u64,
    /// What stands behind the cursor in its JSON; empty when no point in it is wanted.
    tail: String,
}

impl Frame {
    /// Whether there is nothing to send: the client only moves on.
    pub fn is_empty(&self) -> bool {
        self.tail.is_empty()
    }

    /// The event's data; `head` is put in front, such as `"run":"…",`.
    pub fn data(&self, head: &str, cursor: Cursor) -> String {
        // Digits and hyphens need no escaping.
        format!("{{{head}\"cursor\":\"{cursor}\",{}", self.tail)
    }
}

/// Which frame: of which content of the run, from which row on, with which metrics.
type Id = (u64, u64, Keys);

/// The latest frames of a run.
#[derive(Debug, Default)]
pub struct Frames {
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    frames: VecDeque<(Id, Arc<Frame>)>,
    bytes: usize,
}

impl Frames {
    /// The frame that begins at a row; `rows` are asked for only if it was not made yet.
    ///
    /// # Errors
    /// When `rows` fails.
    pub fn get(
        &self,
        generation: u64,
        from: u64,
        keys: &Keys,
        rows: impl FnOnce() -> Result<(Vec<Piece>, u64), OutOfReach>,
    ) -> Result<Arc<Frame>, OutOfReach> {
        // Held while it is encoded: those who wait here want the same one.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let known = made
            .frames
            .iter()
            .rev()
            .find(|((g, at, wanted), _)| (*g, *at) == (generation, from) && wanted == keys);
        if let Some((_, frame)) = known {
            return Ok(Arc::clone(frame));
        }
        let (pieces, end) = rows()?;
        let tail = tail(&pieces, keys);
        let frame = Arc::new(Frame { end, tail });
        made.bytes += frame.tail.len();
        made.frames
            .push_back(((generation, from, keys.clone()), Arc::clone(&frame)));
        while made.frames.len() > FRAMES_MAX || made.bytes > BYTES_MAX && made.frames.len() > 1 {
            if let Some((_, old)) = made.frames.pop_front() {
                made.bytes -= old.tail.len();
            }
        }
        Ok(frame)
    }
}

fn tail(pieces: &[Piece], keys: &Keys) -> String {
    let series: Vec<Series> = match keys {
        None => exact(pieces.iter().map(|(rows, range)| (&**rows, range.clone()))),
        Some(keys) => exact(
            pieces
                .iter()
                .flat_map(|(rows, range)| wanted(rows, range, keys)),
        ),
    };
    if series.is_empty() {
        return String::new();
    }
    match serde_json::to_string(&series) {
        Ok(series) => format!("\"bucket\":null,\"series\":{series}}}"),
        Err(e) => {
            tracing::error!("a frame has no JSON: {e}");
            String::new()
        }
    }
}

/// The rows of some metrics, each as a range of its own.
fn wanted<'a>(
    rows: &'a Rows,
    range: &Range<usize>,
    keys: &BTreeSet<String>,
) -> impl Iterator<Item = (&'a Rows, Range<usize>)> {
    let wanted = range.clone().filter(|&i| keys.contains(rows.row(i).key));
    let ranges: Vec<_> = wanted.map(|i| (rows, i..i + 1)).collect();
    ranges.into_iter()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use expman_model::record::ValueRef;
    use expman_storage::Row;
    use serde_json::{Value as Json, json};

    use super::*;

    fn rows(keys: &[&str]) -> Arc<Rows> {
        let mut rows = Rows::default();
        for (seq, key) in (1..).zip(keys) {
            rows.push_row(&Row {
                key,
                rank: 0,
                step: Some(seq),
                timestamp_us: 5,
                attempt: 0,
                seq: seq.cast_unsigned(),
                value: ValueRef::Int(seq),
            });
        }
        Arc::new(rows)
    }

    #[test]
    fn clients_at_one_place_share_one_encoding() {
        let frames = Frames::default();
        let rows = rows(&["a", "b", "a"]);
        let asked = Cell::new(0);
        let get = |generation, from: u64, keys: &Keys| {
            let make = || {
                asked.set(asked.get() + 1);
                let at = usize::try_from(from).unwrap();
                Ok((vec![(Arc::clone(&rows), at..3)], 3))
            };
            frames.get(generation, from, keys, make).unwrap()
        };
        let first = get(1, 0, &None);
        for _ in 0..49 {
            assert!(Arc::ptr_eq(&first, &get(1, 0, &None)));
        }
        assert_eq!(asked.get(), 1);
        let only: Keys = Some(Arc::new(BTreeSet::from(["b".to_owned()])));
        let b = get(1, 0, &only);
        assert!(Arc::ptr_eq(&b, &get(1, 0, &only.clone())));
        let data: Json =
            serde_json::from_str(&b.data("\"run\":\"r\",", Cursor::default())).unwrap();
        assert_eq!(
            (&data["run"], &data["cursor"]),
            (&json!("r"), &json!("0-0-0-0"))
        );
        assert_eq!(data["series"].as_array().unwrap().len(), 1);
        assert_eq!(data["series"][0]["steps"], json!([2]));
        // Another content of the run, or another place, is another frame.
        get(2, 0, &None);
        assert!(get(1, 2, &only).is_empty());
        assert_eq!(asked.get(), 4);
    }

    #[test]
    fn frames_are_bounded() {
        let frames = Frames::default();
        let rows = rows(&["a"]);
        for from in 0..2 * FRAMES_MAX as u64 {
            frames
                .get(0, from, &None, || {
                    Ok((vec![(Arc::clone(&rows), 0..1)], from + 1))
                })
                .unwrap();
        }
        let made = frames.made.lock().unwrap();
        assert_eq!(made.frames.len(), FRAMES_MAX);
        let bytes: usize = made.frames.iter().map(|(_, f)| f.tail.len()).sum();
        assert_eq!(made.bytes, bytes);
    }
}
