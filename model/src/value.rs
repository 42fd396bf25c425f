//! What a metric or a scalar may be, bit and type exact.

use serde::{Deserialize, Serialize};

/// One logged value; an integer stays an integer, a NaN stays a NaN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating point number; NaN, infinities and −0 are kept.
    Float(f64),
    /// Text.
    Text(String),
}

impl Value {
    /// The tag in files and frames: 0 float, 1 int, 2 bool, 3 text.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Float(_) => 0,
            Self::Int(_) => 1,
            Self::Bool(_) => 2,
            Self::Text(_) => 3,
        }
    }

    /// As a number where that is exact enough to draw; text has none.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "for drawing and summaries; the exact integer is stored beside it"
    )]
    pub const fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(x) => Some(*x),
            Self::Int(i) => Some(*i as f64),
            Self::Bool(b) => Some(if *b { 1.0 } else { 0.0 }),
            Self::Text(_) => None,
        }
    }
}

macro_rules! from {
    ($($from:ty => $variant:ident),*) => {
        $(impl From<$from> for Value {
            fn from(x: $from) -> Self {
                Self::$variant(x.into())
            }
        })*
    };
}
from!(f64 => Float, f32 => Float, i64 => Int, i32 => Int, u32 => Int, bool => Bool, &str => Text, String => Text);
