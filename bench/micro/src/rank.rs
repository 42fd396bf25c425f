//! What a rank does with every call, and with every batch.

use expman_actors::ring::{Ring, encode};
use expman_model::{Point, RecordBody, Value};

use crate::Work;

/// Calls of a repetition: what fits in one batch.
pub(crate) const CALLS: u32 = 256;
const RING_BYTES: usize = 1 << 20;
const BATCH_BYTES: usize = 64 << 10;

/// The record of one call of `log_metrics`.
pub(crate) fn record(step: i64) -> Vec<u8> {
    let names = ["loss", "accuracy", "rate", "grad_norm", "step_time"];
    // Of floats that differ in every bit, as those of a model do.
    let value = |place: u32| {
        let mixed =
            (step.cast_unsigned() * 5 + u64::from(place)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        f64::from_bits(0x3FF0_0000_0000_0000 | (mixed >> 12))
    };
    let points = (0..)
        .zip(names)
        .map(|(place, name)| Point::new(format!("train/{name}"), Value::Float(value(place))))
        .collect();
    encode(&RecordBody::Metrics {
        step: Some(step),
        points,
    })
}

fn ring() -> Ring {
    match Ring::new(RING_BYTES, BATCH_BYTES) {
        Ok(ring) => ring,
        Err(e) => panic!("no ring: {e}"),
    }
}

/// Takes records in; each repetition ends with an empty queue.
pub struct Call {
    ring: Ring,
    record: Vec<u8>,
}

impl Call {
    pub(crate) fn new() -> Self {
        Self {
            ring: ring(),
            record: record(7),
        }
    }
}

impl Work for Call {
    fn once(&mut self) {
        for _ in 0..CALLS {
            assert!(self.ring.push_at_once(&mut self.record).is_some());
        }
        while let Some(cut) = self.ring.cut(RING_BYTES) {
            self.ring.release(cut.len);
        }
    }
}

/// Cuts batches, copies them, and gives their room back.
pub struct Cut(Call);

impl Cut {
    pub(crate) fn new() -> Self {
        Self(Call::new())
    }
}

impl Work for Cut {
    fn once(&mut self) {
        for _ in 0..CALLS {
            assert!(self.0.ring.push_at_once(&mut self.0.record).is_some());
        }
        while let Some(cut) = self.0.ring.cut(BATCH_BYTES) {
            let bytes = self.0.ring.copy(cut.at, cut.len);
            assert_eq!(std::hint::black_box(bytes).len(), cut.len);
            self.0.ring.release(cut.len);
        }
    }
}
