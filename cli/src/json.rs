//! Records as JSON that loses nothing: what JSON has no number for is `"NaN"`, `"inf"` or `"-inf"`.

use std::io::{self, Write};

use expman_model::{Param, RunMeta, Value};
use serde_json::{Map, Value as Json, json};

use crate::console::is_unsafe;

/// A float.
pub fn number(x: f64) -> Json {
    if x.is_finite() {
        json!(x)
    } else {
        json!(format!("{x:?}"))
    }
}

/// A logged value.
pub fn value(value: &Value) -> Json {
    match value {
        Value::Bool(b) => json!(b),
        Value::Int(i) => json!(i),
        Value::Float(x) => number(*x),
        Value::Text(text) => json!(text),
    }
}

/// Parameters.
pub fn param(param: &Param) -> Json {
    match param {
        Param::Null => Json::Null,
        Param::Bool(b) => json!(b),
        Param::Int(i) => json!(i),
        Param::Float(x) => number(*x),
        Param::Text(text) => json!(text),
        Param::List(items) => items.iter().map(self::param).collect(),
        Param::Map(entries) => Json::Object(
            entries
                .iter()
                .map(|(key, value)| (key.clone(), self::param(value)))
                .collect(),
        ),
    }
}

/// A run's record.
pub fn meta(meta: &RunMeta) -> serde_json::Result<Json> {
    let mut fields = serde_json::to_value(meta)?;
    let scalars: Map<_, _> = meta
        .scalars
        .iter()
        .map(|(name, v)| (name.clone(), value(v)))
        .collect();
    fields["scalars"] = Json::Object(scalars);
    for (name, summary) in &meta.metrics {
        fields["metrics"][name]["last"] = value(&summary.last);
    }
    Ok(fields)
}

/// Writes indented JSON and a newline; characters that could steer a terminal are escaped within their strings.
pub fn write(out: &mut impl Write, json: &Json) -> io::Result<()> {
    let mut text = String::new();
    for c in serde_json::to_string_pretty(json)?.chars() {
        if is_unsafe(c) && c != '\n' {
            // All of them are below U+10000, and stand nowhere but in strings.
            text.extend(format!("\\u{:04x}", u32::from(c)).chars());
        } else {
            text.push(c);
        }
    }
    text.push('\n');
    out.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_escaped_and_reads_back() {
        let json = json!({"a\u{9b}31m": ["b\u{202e}\x1b[0m\n", 1.5]});
        let mut out = Vec::new();
        write(&mut out, &json).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.chars().any(|c| is_unsafe(c) && c != '\n'), "{text:?}");
        assert_eq!(serde_json::from_str::<Json>(&text).unwrap(), json);
    }

    #[test]
    fn non_finite_numbers_are_kept() {
        let list = Param::List(vec![
            Param::Float(f64::NAN),
            Param::Float(f64::NEG_INFINITY),
            Param::Float(1.0),
        ]);
        assert_eq!(param(&list), json!(["NaN", "-inf", 1.0]));
    }
}
