//! YAML as this project writes it, read in one pass.
//!
//! Records are read by the thousand when runs are listed, and the full reader takes fifty times as long. Whatever is
//! written in any other way than ours is left to it, so what is read here must mean the same there, to the letter:
//! where that is not plain, the answer is that it is unusual.

mod lines;
mod words;

use std::borrow::Cow;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use self::lines::{Header, Lines};
use self::words::{Scalar, item, scalar, split};

/// Deeper than anything of ours; what people nest deeper is unusual.
const DEPTH_MAX: usize = 32;

/// It is to be read by the full reader, which may find that it is wrong.
#[derive(Debug)]
pub(super) struct Unusual;

impl std::fmt::Display for Unusual {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it is not written as we write it")
    }
}

impl std::error::Error for Unusual {}

impl serde::de::Error for Unusual {
    fn custom<T: std::fmt::Display>(_what: T) -> Self {
        Self
    }
}

type Result<T> = std::result::Result<T, Unusual>;

/// Reads a document.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let text = std::str::from_utf8(bytes).map_err(|_other| Unusual)?;
    // Line breaks and marks of other scripts mean something to the full reader.
    let is_ours = |b: u8| matches!(b, b'\n' | b' '..=b'~');
    let is_word = |c: char| c.is_ascii() || c.is_alphanumeric();
    if !bytes.iter().all(|&b| is_ours(b) || b >= 0x80)
        || !text.is_ascii() && !text.chars().all(is_word)
    {
        return Err(Unusual);
    }
    let mut lines = Lines::new(text)?;
    let value = T::deserialize(Node {
        at: Some(At::Block),
        above: None,
        lines: &mut lines,
    })?;
    if lines.is_over {
        Ok(value)
    } else {
        Err(Unusual)
    }
}

enum At<'de> {
    /// A map or a list begins here.
    Block,
    /// The rest of the line.
    Inline(&'de str),
    /// A name.
    Key(Scalar<'de>),
}

struct Node<'r, 'de> {
    lines: &'r mut Lines<'de>,
    at: Option<At<'de>>,
    /// How far in the map or list stands that it is in.
    above: Option<usize>,
}

impl<'de> Node<'_, 'de> {
    fn scalar(&mut self) -> Result<Scalar<'de>> {
        match self.at.take() {
            Some(At::Key(scalar)) => Ok(scalar),
            Some(At::Inline(text)) => {
                if let Some(header) = Header::of(text) {
                    let text = self.lines.text(header, self.above)?;
                    return Ok(Scalar::Text(text.into()));
                }
                let scalar = scalar(text)?;
                self.lines.advance()?;
                Ok(scalar)
            }
            _ => Err(Unusual),
        }
    }

    fn is_list(&self) -> bool {
        match self.at {
            Some(At::Block) => item(self.lines.line).is_some(),
            Some(At::Inline(text)) => text == "[]",
            _ => false,
        }
    }

    /// The map or list that begins here.
    fn block<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let lines = self.lines;
        if lines.depth == DEPTH_MAX {
            return Err(Unusual);
        }
        lines.depth += 1;
        let block = Block {
            indent: lines.indent,
            value: None,
            lines,
        };
        if item(block.lines.line).is_some() {
            visitor.visit_seq(block)
        } else {
            visitor.visit_map(block)
        }
    }
}

impl<'de> Deserializer<'de> for Node<'_, 'de> {
    type Error = Unusual;

    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        match self.at {
            Some(At::Block) => return self.block(visitor),
            Some(At::Inline(empty @ ("{}" | "[]"))) => {
                self.lines.advance()?;
                return if empty == "{}" {
                    visitor.visit_map(Nothing)
                } else {
                    visitor.visit_seq(Nothing)
                };
            }
            _ => {}
        }
        match self.scalar()? {
            Scalar::Null => visitor.visit_unit(),
            Scalar::Bool(b) => visitor.visit_bool(b),
            Scalar::Unsigned(n) => visitor.visit_u64(n),
            Scalar::Signed(n) => visitor.visit_i64(n),
            Scalar::Float(x) => visitor.visit_f64(x),
            Scalar::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Scalar::Text(Cow::Owned(text)) => visitor.visit_string(text),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        if let Some(At::Inline("null")) = self.at {
            self.scalar()?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.scalar()? {
            Scalar::Text(word) => visitor.visit_enum(word.into_deserializer()),
            _ => Err(Unusual),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        // A number would be taken for the place of a field.
        match self.scalar()? {
            Scalar::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Scalar::Text(Cow::Owned(text)) => visitor.visit_string(text),
            _ => Err(Unusual),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.is_list() {
            return Err(Unusual); // which a visitor of fields would take
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct ignored_any
    }
}

/// A map or a list, and in a map the value behind the name that was read last.
struct Block<'r, 'de> {
    lines: &'r mut Lines<'de>,
    indent: usize,
    value: Option<At<'de>>,
}

impl<'de> Block<'_, 'de> {
    /// Whether something follows in it.
    fn goes_on(&self) -> Result<bool> {
        if self.lines.is_over || self.lines.indent < self.indent {
            return Ok(false);
        }
        if self.lines.indent == self.indent {
            Ok(true)
        } else {
            Err(Unusual)
        }
    }

    fn seed<S: DeserializeSeed<'de>>(&mut self, at: At<'de>, seed: S) -> Result<S::Value> {
        seed.deserialize(Node {
            lines: self.lines,
            at: Some(at),
            above: Some(self.indent),
        })
    }
}

impl Drop for Block<'_, '_> {
    fn drop(&mut self) {
        self.lines.depth -= 1;
    }
}

impl<'de> SeqAccess<'de> for Block<'_, 'de> {
    type Error = Unusual;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if !self.goes_on()? {
            return Ok(None);
        }
        let Some(content) = item(self.lines.line) else {
            return Ok(None); // the next name of the map that the list is in
        };
        let at = if item(content).is_some() || split(content)?.is_some() {
            self.lines.enter(content);
            At::Block
        } else {
            At::Inline(content)
        };
        self.seed(at, seed).map(Some)
    }
}

impl<'de> MapAccess<'de> for Block<'_, 'de> {
    type Error = Unusual;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if !self.goes_on()? {
            return Ok(None);
        }
        let (key, value) = split(self.lines.line)?.ok_or(Unusual)?;
        let key = scalar(key)?;
        self.value = Some(if value.is_empty() {
            self.lines.advance()?;
            let deeper = self.lines.indent > self.indent;
            let list = self.lines.indent == self.indent && item(self.lines.line).is_some();
            if self.lines.is_over || !deeper && !list {
                return Err(Unusual);
            }
            At::Block
        } else {
            At::Inline(value)
        });
        self.seed(At::Key(key), seed).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        let at = self.value.take().ok_or(Unusual)?;
        self.seed(at, seed)
    }
}

/// `{}` or `[]`.
struct Nothing;

impl<'de> SeqAccess<'de> for Nothing {
    type Error = Unusual;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, _seed: S) -> Result<Option<S::Value>> {
        Ok(None)
    }
}

impl<'de> MapAccess<'de> for Nothing {
    type Error = Unusual;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, _seed: S) -> Result<Option<S::Value>> {
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, _seed: S) -> Result<S::Value> {
        Err(Unusual)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use expman_model::{Param, RunMeta};
    use proptest::prelude::*;
    use serde::Serialize;

    use super::*;
    use crate::yaml::full;

    /// What is read here is what the full reader reads.
    fn agrees<T: DeserializeOwned + Debug>(text: &str) -> bool {
        let Ok(value) = read::<T>(text.as_bytes()) else {
            return false;
        };
        let whole = full::<T>(text.as_bytes()).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        // By their words, because no number is not itself.
        assert_eq!(format!("{value:?}"), format!("{whole:?}"), "{text:?}");
        true
    }

    fn written(value: &impl Serialize) -> String {
        serde_saphyr::to_string(value).unwrap()
    }

    const RECORD: &str = r#"format: 1
id: 01a200b7-a4d6-766a-a33a-46928cebb69b
name: r00000
status: failed
started_at: "2026-11-22T00:46:05.014962Z"
duration_secs: 0.100039
description: "größer \"als\" \\ nichts"
display_name: null
tags: []
command:
- /usr/bin/python3
- --lr=0.1
- -m
- 'it''s'
- "3"
error:
  rank: 3
  message: "ValueError: no"
  traceback: |-
    Traceback (most recent call last):
      File "x.py", line 3

    ValueError: no
owner_epoch: 1
scalars: {}
metrics:
  loss:
    last: 1e-7
    step: -9
    rank: 0
    min: -.inf
    max: .nan
    count: 10
  "a: b":
    last: text
    rank: 0
    count: 1
ranks:
  0:
  - incarnation: c726d31bfae94b74
    status: finished
    dropped: {}
  - incarnation: "0000000000000001"
other:
- - 1
  - x
"#;

    #[test]
    fn a_record_is_read_as_a_whole() {
        assert!(agrees::<RunMeta>(RECORD));
        assert!(agrees::<Param>(RECORD));
    }

    #[test]
    fn what_could_mean_something_else_is_left_to_the_full_reader() {
        for text in [
            "a: b\n  c\n",
            "a: b # c\n",
            "# c\na: b\n",
            "a: [1]\n",
            "a: {b: 1}\n",
            "a: &x 1\nb: *x\n",
            "a: !t 1\n",
            "---\na: 1\n",
            "a: 1\n...\n",
            "a: 1\n---\nb: 2\n",
            "a: ~\n",
            "a: True\n",
            "a: .Inf\n",
            "a: 0x1f\n",
            "a: 012\n",
            "a: +5\n",
            "a: -0\n",
            "a: 99999999999999999999\n",
            "a:\n",
            "a:\n\n  b: 1\n",
            "a: 1\n b: 2\n",
            "a:\n  b: 1\n c: 2\n",
            "a: >-\n  x\n\n  y\n",
            "a: >-\n  x\n   y\n",
            "a: |+\n  x\n\n",
            "a: |2\n   x\n",
            "a: |\n\n  x\n",
            "a: |\nb: 1\n",
            "a: \"x\n  y\"\n",
            "a: \"\\x41\"\n",
            "a: \"b\" c\n",
            "a: b \n",
            "a : b\n",
            "a:  b\n",
            "a:\tb\n",
            "a: b\r\n",
            "? a\n: b\n",
            "a: - b\n",
            "a: b: c\n",
            "a: b:\n",
            "a: @b\n",
            "a: %b\n",
            "a: `b\n",
            "a: ? b\n",
            "a: b",
            "- a\n b\n",
            "a: \u{2028}\n",
            "\u{feff}a: 1\n",
            "a: \u{85}\n",
            "-\n",
            "- \n",
            "-  a\n",
            "a: -\n",
        ] {
            assert!(read::<Param>(text.as_bytes()).is_err(), "{text:?}");
        }
        // A name that is a number is not the place of a field, and a list has no names.
        assert!(!agrees::<RunMeta>("ranks:\n  0:\n  - 3: 7\n"));
        assert!(!agrees::<RunMeta>("ranks:\n  0:\n  - []\n"));
        assert!(!agrees::<RunMeta>("name: 5\n"));
    }

    fn word() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ -~]{0,12}",
            "[a-z0-9.+_-]{1,8}",
            "(\\PC|\n|  ){0,8}",
            Just("null".to_owned()),
        ]
    }

    fn param() -> impl Strategy<Value = Param> {
        let leaf = prop_oneof![
            Just(Param::Null),
            any::<bool>().prop_map(Param::Bool),
            any::<i64>().prop_map(Param::Int),
            (-20..20i64).prop_map(Param::Int),
            any::<f64>().prop_map(Param::Float),
            word().prop_map(Param::Text),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Param::List),
                prop::collection::btree_map(word(), inner, 0..4)
                    .prop_map(|map| Param::Map(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_alike(value in param()) {
            let text = written(&value);
            agrees::<Param>(&text);
        }

        #[test]
        fn usual_words_and_numbers_are_read_here(
            words in prop::collection::btree_map("[a-z/_][a-z0-9_/]{3,12}", prop_oneof![
                any::<i32>().prop_map(|n| Param::Int(n.into())),
                any::<f64>().prop_map(Param::Float),
                "[A-Za-z/][A-Za-z /.,()]{0,200}".prop_map(Param::Text),
                "[a-z]{1,9}(\n[a-z ]{1,9}[a-z]){0,3}".prop_map(Param::Text),
            ], 1..6)
        ) {
            let value = Param::Map(vec![("a".to_owned(), Param::Map(words.into_iter().collect()))]);
            let text = written(&value);
            prop_assert!(agrees::<Param>(&text), "{}", text);
        }

        #[test]
        fn a_changed_text_is_read_alike_or_not_here(
            at in any::<prop::sample::Index>(), cut in 0..3usize, put in "(\\PC|[ \n:#'\"|>*&!?,\\[\\]{}-]){0,3}"
        ) {
            let mut chars: Vec<char> = RECORD.chars().collect();
            let at = at.index(chars.len());
            let end = (at + cut).min(chars.len());
            chars.splice(at..end, put.chars());
            let text: String = chars.into_iter().collect();
            agrees::<RunMeta>(&text);
            agrees::<Param>(&text);
        }
    }
}
