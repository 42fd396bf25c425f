//! YAML files: read with one library, written with another whose output every reader reads back; what is written in
//! our own way is read without either.
//!
//! The reader's effort and memory can grow with the square of a text, or without any bound: by aliases, by lists
//! that open and never close, by directives. A text that could be such a one is looked at first by the library
//! that writes, which counts and builds nothing.

mod plain;

use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_saphyr::Budget;
use serde_saphyr::budget::{BudgetBreach, EnforcingPolicy, check_yaml_budget};

use crate::durable::{self, Prepared};
use crate::error::{At, Result, StorageError};

/// A YAML file larger than this is refused.
const YAML_BYTES_MAX: u64 = 64 << 20;
/// Most files are no larger: they are read with one call.
const READ_BYTES: usize = 8 << 10;
/// Lists and maps within one another; as deep as the reader goes.
const DEPTH_MAX: usize = 128;
/// Directives in front of a document; those who write one write one or two.
const DIRECTIVES_MAX: usize = 16;
/// Longest name of an entry, in characters.
const KEY_CHARS_MAX: usize = 64 << 10;

/// Reads a YAML file; `None` when it is missing or empty.
///
/// # Errors
/// When it can't be read, is not YAML of this shape, or is larger than anybody means.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    parse(path, |bytes| {
        plain::read(bytes).or_else(|_unusual| full(bytes))
    })
}

/// What a text means that is written as we write it; `None` for any other, which may mean something, too.
pub(crate) fn quick<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    plain::read(bytes).ok()
}

/// [`read`], though never the short way; both read the same.
///
/// # Errors
/// As [`read`].
pub fn read_in_full<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    parse(path, full)
}

fn parse<T>(path: &Path, parse: impl Fn(&[u8]) -> Result<T, String>) -> Result<Option<T>> {
    let refused = |what: String| StorageError::Yaml {
        path: path.to_owned(),
        what,
    };
    let mut bytes = Vec::with_capacity(READ_BYTES);
    match durable::open_read(path) {
        Err(e) if e.is_not_found() => return Ok(None),
        file => file?
            .take(YAML_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .at("read", path)?,
    };
    if bytes.len() as u64 > YAML_BYTES_MAX {
        return Err(refused(format!("larger than {YAML_BYTES_MAX} bytes")));
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    parse(&bytes).map(Some).map_err(refused)
}

/// Reads whatever is YAML.
fn full<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if may_be_costly(bytes) {
        bounded(bytes)?;
    }
    serde_yaml::from_slice(bytes).map_err(|e| e.to_string())
}

/// Whether a text may hold what makes reading costly; also true for some that only look so.
fn may_be_costly(bytes: &[u8]) -> bool {
    let (mut opened, mut before) = (0, b'\n');
    for &byte in bytes {
        let begins = matches!(before, b'\n' | b'\r' | 0x80..);
        match byte {
            b'[' | b'{' if opened == DEPTH_MAX => return true,
            b'[' | b'{' => opened += 1,
            b'*' if begins || b" \t[{,-?:".contains(&before) => return true,
            b'%' if begins => return true,
            // Never in UTF-8 text: another encoding.
            0 | 0xFE.. => return true,
            _ => {}
        }
        before = byte;
    }
    false
}

/// Refuses a text that is costly indeed.
fn bounded(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let directives = text
        .split(['\n', '\r'])
        .filter(|line| line.starts_with('%'));
    if directives.take(DIRECTIVES_MAX + 1).count() > DIRECTIVES_MAX {
        return Err(format!("more than {DIRECTIVES_MAX} directives"));
    }
    let mut budget = Budget::default();
    budget.max_aliases = 0;
    budget.max_depth = DEPTH_MAX;
    budget.simple_key_max_lookahead = KEY_CHARS_MAX;
    for unbounded in [
        &mut budget.max_events,
        &mut budget.max_nodes,
        &mut budget.max_anchors,
        &mut budget.max_total_scalar_bytes,
        &mut budget.max_merge_keys,
    ] {
        *unbounded = usize::MAX;
    }
    let report = check_yaml_budget(text, budget, EnforcingPolicy::AllContent);
    match report.map_err(|e| e.to_string())?.breached {
        None => Ok(()),
        Some(BudgetBreach::Aliases { .. }) => Err(
            "it repeats itself by an alias (*name); every value must stand where it belongs"
                .to_owned(),
        ),
        Some(breach) => Err(format!("beyond its bounds: {breach:?}")),
    }
}

/// Writes a YAML file, all or nothing.
///
/// # Errors
/// When the value has no YAML form, or the file can't be written.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    prepare(path, value)?.publish(None)
}

/// [`write`], up to the moment when it gets its name.
pub(crate) fn prepare<T: Serialize>(path: &Path, value: &T) -> Result<Prepared> {
    let text = serde_saphyr::to_string(value).map_err(|e| StorageError::Yaml {
        path: path.to_owned(),
        what: e.to_string(),
    })?;
    durable::prepare(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use expman_model::Param;

    use super::*;

    #[test]
    fn words_that_yaml_readers_take_for_something_else_come_back_as_text() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c.yaml");
        let words = [
            "on",
            "12:30:45",
            "1e-300",
            "null",
            "~",
            "0x10",
            "- a",
            "a: b",
            "#",
            "",
            " x ",
            "multi\nline",
            "ünï",
        ];
        let map = Param::Map(
            words
                .iter()
                .map(|w| ((*w).to_owned() + "k", Param::Text((*w).to_owned())))
                .collect(),
        );
        write(&path, &map).unwrap();
        assert_eq!(read::<Param>(&path).unwrap(), Some(map));
    }

    fn read_text(text: &str) -> Result<Option<Param>> {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c.yaml");
        durable::replace(&path, text.as_bytes()).unwrap();
        read::<Param>(&path)
    }

    #[test]
    fn a_text_that_would_cost_more_than_its_length_is_refused_at_once() {
        let scalar = format!("- &a {}\n{}", "x".repeat(1 << 16), "- *a\n".repeat(1 << 10));
        let names: Vec<String> = (0..20_000).map(|i| format!("%TAG !a{i}! x\n")).collect();
        let laughs: Vec<String> = (1..40)
            .map(|i| format!("a{i}: &a{i} [*a{0}, *a{0}]\n", i - 1))
            .collect();
        for text in [
            "[".repeat(1 << 20),
            "{a: ".repeat(1 << 18),
            "{\"}\": ".repeat(1 << 18),
            "- ".repeat(1 << 18),
            names.concat() + "--- a\n",
            "a0: &a0 x\n".to_owned() + &laughs.concat(),
            "- &a [x]\n- [*a,*a]\n".to_owned(),
            scalar,
        ] {
            let start = std::time::Instant::now();
            let read = read_text(&text);
            assert!(read.is_err(), "{}", &text[..40]);
            assert!(start.elapsed().as_secs() < 5, "{}", &text[..40]);
        }
    }

    #[test]
    fn text_that_only_looks_costly_is_read() {
        let value = Param::Map(vec![
            ("a".into(), Param::Text("[".repeat(100_000))),
            ("b".into(), Param::Text("x *y\n*z &w\n% {{{{".into())),
            ("*k".into(), Param::Text("%\u{2028}*".into())),
            ("k".repeat(5_000), Param::Int(1)),
            (
                "d".into(),
                (0..60).fold(Param::Int(1), |x, _| Param::List(vec![x])),
            ),
        ]);
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c.yaml");
        write(&path, &value).unwrap();
        assert_eq!(read::<Param>(&path).unwrap(), Some(value));
    }

    #[test]
    fn links_and_pipes_are_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        durable::replace(&at("outside"), b"a: 1\n").unwrap();
        std::os::unix::fs::symlink(at("outside"), at("link")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), mode).unwrap();
        for name in ["link", "pipe", "."] {
            assert!(read::<Param>(&at(name)).is_err(), "{name}");
        }
        assert_eq!(read::<Param>(&at("missing")).unwrap(), None);
    }

    #[test]
    fn numbers_come_back_exact() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c.yaml");
        let list = Param::List(vec![
            Param::Float(1e-300),
            Param::Float(0.1),
            Param::Int(i64::MIN),
            Param::Float(f64::INFINITY),
            Param::Float(5.0),
        ]);
        write(&path, &list).unwrap();
        assert_eq!(read::<Param>(&path).unwrap(), Some(list));
    }
}
