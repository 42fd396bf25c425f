//! What a metric or a scalar may be, bit and type exact.

use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, Reader, put_bytes};

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

/// Appends a value behind its kind.
pub fn put_value(out: &mut Vec<u8>, value: &Value) {
    out.push(value.kind());
    match value {
        Value::Float(x) => out.extend_from_slice(&x.to_bits().to_le_bytes()),
        Value::Int(i) => out.extend_from_slice(&i.to_le_bytes()),
        Value::Bool(b) => out.push(u8::from(*b)),
        Value::Text(s) => put_bytes(out, s.as_bytes()),
    }
}

/// A value that borrows its text from the encoded bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueRef<'a> {
    /// See [`Value::Float`].
    Float(f64),
    /// See [`Value::Int`].
    Int(i64),
    /// See [`Value::Bool`].
    Bool(bool),
    /// See [`Value::Text`].
    Text(&'a str),
}

impl ValueRef<'_> {
    /// An owned copy.
    #[must_use]
    #[inline]
    pub fn to_value(self) -> Value {
        match self {
            Self::Float(x) => Value::Float(x),
            Self::Int(i) => Value::Int(i),
            Self::Bool(b) => Value::Bool(b),
            Self::Text(s) => Value::Text(s.to_owned()),
        }
    }
}

/// Reads a value without copying its text.
///
/// # Errors
/// When the bytes are cut off or of no known kind.
#[inline]
pub fn take_value<'a>(r: &mut Reader<'a>) -> Result<ValueRef<'a>, CodecError> {
    Ok(match r.u8("value kind")? {
        0 => ValueRef::Float(f64::from_bits(r.u64("float value")?)),
        1 => ValueRef::Int(r.i64("int value")?),
        2 => ValueRef::Bool(r.u8("bool value")? != 0),
        3 => ValueRef::Text(r.str("text value")?),
        value => {
            return Err(CodecError::Unknown {
                what: "value kind",
                value: value.into(),
            });
        }
    })
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
