//! Parameters: nested values that become YAML in `config.yaml`.

use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, Reader, put_bytes};

/// Deepest nesting of lists and maps.
const DEPTH_MAX: usize = 64;

/// A parameter value; a map keeps the order in which it was given.
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Self>),
    /// A mapping with text keys.
    Map(Vec<(String, Self)>),
}

impl Param {
    /// Merges `newer` into a map: nested maps are merged, everything else is replaced.
    pub fn merge(&mut self, newer: Self) {
        match (self, newer) {
            (Self::Map(old), Self::Map(new)) => {
                for (key, value) in new {
                    match old.iter_mut().find(|(k, _)| *k == key) {
                        Some((_, slot)) => slot.merge(value),
                        None => old.push((key, value)),
                    }
                }
            }
            (slot, new) => *slot = new,
        }
    }

    /// Appends the value to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.push(0),
            Self::Bool(b) => out.extend_from_slice(&[1, u8::from(*b)]),
            Self::Int(i) => {
                out.push(2);
                out.extend_from_slice(&i.to_le_bytes());
            }
            Self::Float(x) => {
                out.push(3);
                out.extend_from_slice(&x.to_bits().to_le_bytes());
            }
            Self::Text(s) => {
                out.push(4);
                put_bytes(out, s.as_bytes());
            }
            Self::List(items) => {
                out.push(5);
                out.extend_from_slice(
                    &u32::try_from(items.len()).unwrap_or(u32::MAX).to_le_bytes(),
                );
                for item in items {
                    item.encode(out);
                }
            }
            Self::Map(entries) => {
                out.push(6);
                out.extend_from_slice(
                    &u32::try_from(entries.len())
                        .unwrap_or(u32::MAX)
                        .to_le_bytes(),
                );
                for (key, value) in entries {
                    put_bytes(out, key.as_bytes());
                    value.encode(out);
                }
            }
        }
    }

    /// Reads one value.
    ///
    /// # Errors
    /// When the bytes are cut off, unknown or nested too deeply.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        Self::decode_at(r, 0)
    }

    fn decode_at(r: &mut Reader<'_>, depth: usize) -> Result<Self, CodecError> {
        if depth > DEPTH_MAX {
            return Err(CodecError::TooDeep("parameter"));
        }
        Ok(match r.u8("parameter kind")? {
            0 => Self::Null,
            1 => Self::Bool(r.u8("parameter bool")? != 0),
            2 => Self::Int(r.i64("parameter int")?),
            3 => Self::Float(f64::from_bits(r.u64("parameter float")?)),
            4 => Self::Text(r.str("parameter text")?.to_owned()),
            5 => {
                let n = r.u32("parameter list")?;
                let mut items = Vec::new();
                for _ in 0..n {
                    items.push(Self::decode_at(r, depth + 1)?);
                }
                Self::List(items)
            }
            6 => {
                let n = r.u32("parameter map")?;
                let mut entries = Vec::new();
                for _ in 0..n {
                    let key = r.str("parameter name")?.to_owned();
                    entries.push((key, Self::decode_at(r, depth + 1)?));
                }
                Self::Map(entries)
            }
            value => {
                return Err(CodecError::Unknown {
                    what: "parameter kind",
                    value: value.into(),
                });
            }
        })
    }
}

impl Serialize for Param {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => s.serialize_unit(),
            Self::Bool(b) => s.serialize_bool(*b),
            Self::Int(i) => s.serialize_i64(*i),
            Self::Float(x) => s.serialize_f64(*x),
            Self::Text(t) => s.serialize_str(t),
            Self::List(items) => s.collect_seq(items),
            Self::Map(entries) => s.collect_map(entries.iter().map(|(k, v)| (k, v))),
        }
    }
}

impl<'de> Deserialize<'de> for Param {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ParamVisitor)
    }
}

struct ParamVisitor;

#[expect(
    clippy::cast_precision_loss,
    reason = "an integer beyond i64 has no other home"
)]
impl<'de> serde::de::Visitor<'de> for ParamVisitor {
    type Value = Param;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a parameter value")
    }
    fn visit_unit<E>(self) -> Result<Param, E> {
        Ok(Param::Null)
    }
    fn visit_none<E>(self) -> Result<Param, E> {
        Ok(Param::Null)
    }
    fn visit_some<D: serde::Deserializer<'de>>(self, d: D) -> Result<Param, D::Error> {
        Param::deserialize(d)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Param, E> {
        Ok(Param::Bool(b))
    }
    fn visit_i64<E>(self, i: i64) -> Result<Param, E> {
        Ok(Param::Int(i))
    }
    fn visit_u64<E>(self, u: u64) -> Result<Param, E> {
        Ok(i64::try_from(u).map_or(Param::Float(u as f64), Param::Int))
    }
    fn visit_f64<E>(self, x: f64) -> Result<Param, E> {
        Ok(Param::Float(x))
    }
    fn visit_str<E>(self, s: &str) -> Result<Param, E> {
        Ok(Param::Text(s.to_owned()))
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Param, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Param::List(items))
    }
    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Param, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Param, Param>()? {
            let key = match key {
                Param::Text(t) => t,
                Param::Int(i) => i.to_string(),
                Param::Float(x) => x.to_string(),
                Param::Bool(b) => b.to_string(),
                Param::Null => "null".to_owned(),
                Param::List(_) | Param::Map(_) => {
                    return Err(serde::de::Error::custom("a parameter name must be text"));
                }
            };
            entries.push((key, value));
        }
        Ok(Param::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_replaces_leaves_and_keeps_the_rest() {
        let map = |entries: &[(&str, Param)]| {
            Param::Map(
                entries
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), v.clone()))
                    .collect(),
            )
        };
        let mut old = map(&[
            ("a", Param::Int(1)),
            (
                "opt",
                map(&[("lr", Param::Float(0.1)), ("b", Param::Int(2))]),
            ),
        ]);
        old.merge(map(&[
            ("opt", map(&[("lr", Param::Float(0.2))])),
            ("z", Param::Null),
        ]));
        let want = map(&[
            ("a", Param::Int(1)),
            (
                "opt",
                map(&[("lr", Param::Float(0.2)), ("b", Param::Int(2))]),
            ),
            ("z", Param::Null),
        ]);
        assert_eq!(old, want);
    }

    #[test]
    fn deep_bytes_are_refused_not_followed() {
        let bytes: Vec<u8> = [5, 1, 0, 0, 0].repeat(1000);
        assert_eq!(
            Param::decode(&mut Reader::new(&bytes)),
            Err(CodecError::TooDeep("parameter"))
        );
    }
}
