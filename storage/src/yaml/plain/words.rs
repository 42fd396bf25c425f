//! Names, numbers and texts on one line.

use std::borrow::Cow;

use super::{Result, Unusual};

/// The full reader refuses a name of more than 1,024 characters.
const KEY_BYTES_MAX: usize = 1_000;
/// Digits of a number that fits into 64 bits in any case.
const DIGITS_MAX: usize = 18;

/// What stands on one line.
pub(super) enum Scalar<'de> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(Cow<'de, str>),
}

/// What stands behind the hyphen of an item of a list.
pub(super) fn item(line: &str) -> Option<&str> {
    line.strip_prefix("- ")
}

/// A name, and what stands behind its colon.
pub(super) fn split(line: &str) -> Result<Option<(&str, &str)>> {
    let end = match line.as_bytes() {
        [quote @ (b'"' | b'\''), ..] => {
            let end = quoted_end(line, *quote).ok_or(Unusual)?;
            match line.as_bytes().get(end) {
                None => return Ok(None),
                Some(b':') => end,
                Some(_) => return Err(Unusual),
            }
        }
        _ => match colon(line) {
            Some(end) => end,
            None => return Ok(None),
        },
    };
    let (key, value) = (&line[..end], &line[end + 1..]);
    if key.len() > KEY_BYTES_MAX {
        return Err(Unusual);
    }
    match value.strip_prefix(' ') {
        _ if value.is_empty() => Ok(Some((key, value))),
        Some(value) if !value.starts_with(' ') => Ok(Some((key, value))),
        _ => Err(Unusual),
    }
}

/// Where a name without quotes ends.
fn colon(line: &str) -> Option<usize> {
    let is_end = |at: &usize| matches!(line.as_bytes().get(at + 1), None | Some(b' '));
    memchr::memchr_iter(b':', line.as_bytes()).find(is_end)
}

/// Where a quoted text at the beginning of a line ends.
fn quoted_end(line: &str, quote: u8) -> Option<usize> {
    let bytes = line.as_bytes();
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'\\' if quote == b'"' => at += 2,
            b if *b == quote => {
                if quote == b'"' || bytes.get(at + 1) != Some(&quote) {
                    return Some(at + 1);
                }
                at += 2;
            }
            _ => at += 1,
        }
    }
}

pub(super) fn scalar(text: &str) -> Result<Scalar<'_>> {
    match text.as_bytes() {
        [quote @ (b'"' | b'\''), .., _] if quoted_end(text, *quote) == Some(text.len()) => {
            let inner = &text[1..text.len() - 1];
            unquoted(inner, *quote).map(Scalar::Text)
        }
        [b'"' | b'\'', ..] => Err(Unusual),
        _ => unmarked(text),
    }
}

fn unquoted(inner: &str, quote: u8) -> Result<Cow<'_, str>> {
    if quote == b'\'' {
        return Ok(if inner.contains('\'') {
            inner.replace("''", "'").into()
        } else {
            inner.into()
        });
    }
    if !inner.contains('\\') {
        return Ok(inner.into());
    }
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next().ok_or(Unusual)? {
                c @ ('"' | '\\') => c,
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                _ => return Err(Unusual),
            },
            c => c,
        });
    }
    Ok(text.into())
}

/// A word without quotes: a number, nothing, a truth value, or text.
fn unmarked(text: &str) -> Result<Scalar<'_>> {
    let first = text.chars().next().ok_or(Unusual)?;
    let begins = first.is_alphanumeric()
        || matches!(first, '/' | '_' | '.' | '<' | '(' | '=')
        || first == '-' && !text.starts_with("---") && !matches!(text.get(1..2), None | Some(" "));
    let has_comment = || text.as_bytes().windows(2).any(|two| two == b" #");
    if !begins || text.ends_with(' ') || colon(text).is_some() || has_comment() {
        return Err(Unusual);
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    match text {
        "null" => return Ok(Scalar::Null),
        "true" => return Ok(Scalar::Bool(true)),
        "false" => return Ok(Scalar::Bool(false)),
        ".inf" => return Ok(Scalar::Float(f64::INFINITY)),
        "-.inf" => return Ok(Scalar::Float(f64::NEG_INFINITY)),
        ".nan" => return Ok(Scalar::Float(f64::NAN)),
        _ if first.is_alphabetic() => {
            let words = ["null", "true", "false"];
            let is_word = words.iter().any(|word| text.eq_ignore_ascii_case(word));
            return if is_word {
                Err(Unusual)
            } else {
                Ok(Scalar::Text(text.into()))
            };
        }
        _ if digits.bytes().all(|b| b.is_ascii_digit()) => {
            let is_plain = digits.len() <= DIGITS_MAX && (!digits.starts_with('0') || text == "0");
            let number = if is_plain { text.parse().ok() } else { None };
            return match (number, text.parse()) {
                (Some(n), _) => Ok(Scalar::Unsigned(n)),
                (None, Ok(n)) if is_plain => Ok(Scalar::Signed(n)),
                _ => Err(Unusual),
            };
        }
        _ => {}
    }
    let bytes = digits.as_bytes();
    if matches!(bytes, [b'0', b'x' | b'o' | b'b', ..]) || bytes.starts_with(b".") && is_named(text)
    {
        return Err(Unusual);
    }
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(Scalar::Float(x)),
        _ => Ok(Scalar::Text(text.into())),
    }
}

/// Whether it is one of the words for numbers that are none, in another spelling.
fn is_named(text: &str) -> bool {
    let word = text.trim_start_matches(['-', '.']);
    ["inf", "nan"].iter().any(|w| word.eq_ignore_ascii_case(w))
}
