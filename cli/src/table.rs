//! Plain aligned tables, and how times and values read in them.

use std::borrow::Cow;
use std::io::{self, Write};
use std::iter::repeat_n;

use expman_model::time::{now_us, parse_rfc3339};
use expman_model::{RunMeta, RunStatus, Value};

use crate::console::{Console, plain};

/// Between two columns.
const GAP: &str = "  ";
/// Characters of a cell that a table shows at most.
const CELL_CHARS_MAX: usize = 80;

/// On which side a column is even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

/// The cells of a row, as they are shown.
#[derive(Debug)]
pub struct Row(Vec<String>);

impl Row {
    /// Cells may hold anything; those without a head are not shown.
    pub fn new<const N: usize>(cells: &[String; N]) -> Self {
        Self(cells.iter().map(|cell| shown(cell)).collect())
    }

    /// Whether a cell is empty.
    pub fn is_blank(&self, at: usize) -> bool {
        self.0.get(at).is_none_or(String::is_empty)
    }
}

/// Rows of text under a head.
#[derive(Debug)]
pub struct Table {
    head: Vec<(&'static str, Side)>,
    rows: Vec<Row>,
}

impl Table {
    /// An empty table.
    pub fn new(head: &[(&'static str, Side)]) -> Self {
        Self::of(head, Vec::new())
    }

    /// A table of these rows.
    pub fn of(head: &[(&'static str, Side)], rows: Vec<Row>) -> Self {
        Self {
            head: head.to_vec(),
            rows,
        }
    }

    /// Adds a row.
    pub fn push<const N: usize>(&mut self, cells: &[String; N]) {
        self.rows.push(Row::new(cells));
    }

    /// Writes head and rows; words that are a status are coloured where colours are welcome.
    pub fn write(&self, console: &mut Console) -> io::Result<()> {
        let mut widths: Vec<usize> = self
            .head
            .iter()
            .map(|(name, _)| name.chars().count())
            .collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(&row.0) {
                *width = cell.chars().count().max(*width);
            }
        }
        let coloured = console.coloured();
        let out = console.out();
        let head: Vec<String> = self
            .head
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        self.line(out, &widths, &head, false)?;
        for row in &self.rows {
            self.line(out, &widths, &row.0, coloured)?;
        }
        Ok(())
    }

    fn line(
        &self,
        out: &mut impl Write,
        widths: &[usize],
        cells: &[String],
        coloured: bool,
    ) -> io::Result<()> {
        let mut line = String::new();
        for ((cell, width), (_, side)) in cells.iter().zip(widths).zip(&self.head) {
            let padding = repeat_n(' ', width.saturating_sub(cell.chars().count()));
            let cell = if coloured {
                Cow::from(painted(cell))
            } else {
                Cow::from(cell)
            };
            match side {
                Side::Left => {
                    line.push_str(&cell);
                    line.extend(padding);
                }
                Side::Right => {
                    line.extend(padding);
                    line.push_str(&cell);
                }
            }
            line.push_str(GAP);
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// A cell in one harmless line of a bounded length.
fn shown(text: &str) -> String {
    if text.len() <= CELL_CHARS_MAX && text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return text.to_owned();
    }
    shortened(&plain(text))
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= CELL_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

/// A status in its colour; anything else as it is.
pub fn painted(word: &str) -> String {
    let colour = match RunStatus::parse(word) {
        Some(RunStatus::Finished) => "\x1b[32m",
        Some(RunStatus::Running) => "\x1b[36m",
        Some(RunStatus::Failed | RunStatus::Crashed) => "\x1b[31m",
        Some(_) => "\x1b[33m",
        None => return word.to_owned(),
    };
    format!("{colour}{word}\x1b[0m")
}

/// A value as tables show it.
pub fn value(value: &Value) -> String {
    match value {
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(x) => number(*x),
        Value::Text(text) => text.clone(),
    }
}

/// A float, short but exact.
pub fn number(x: f64) -> String {
    format!("{x:?}")
}

/// Something that may be absent.
pub fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

/// `512 B`, `1.5 KiB`, `3.0 GiB`.
#[expect(clippy::cast_precision_loss, reason = "for display")]
pub fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = n as f64;
    let mut shown = format!("{n} B");
    for unit in units {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        shown = format!("{size:.1} {unit}");
    }
    shown
}

/// `2026-01-01T00:00:00Z`: a time without its fraction.
pub fn time(text: Option<&str>) -> String {
    let whole = |text: &str| match text.split_once('.') {
        Some((whole, fraction)) if fraction.ends_with('Z') => format!("{whole}Z"),
        _ => text.to_owned(),
    };
    or_dash(text.map(whole))
}

/// How long a run took, or has taken so far.
pub fn duration_secs(meta: &RunMeta, live: bool) -> Option<f64> {
    if !live {
        return meta.duration_secs;
    }
    let started = parse_rfc3339(meta.started_at.as_deref()?)?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a difference of two times, for display"
    )]
    let secs = (now_us() - started) as f64 / 1e6;
    Some(secs.max(0.0))
}

/// `250 ms`, `5.00 s`, `1m 05s`, `2h 03m`, `3d 04h`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, for display"
)]
pub fn duration(secs: Option<f64>) -> String {
    let Some(secs) = secs.filter(|s| s.is_finite()) else {
        return "-".to_owned();
    };
    let whole = secs as u64;
    match whole {
        0 => format!("{:.0} ms", secs * 1e3),
        1..60 => format!("{secs:.2} s"),
        60..3_600 => format!("{}m {:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h {:02}m", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_parts() {
        let read = [0.25, 5.0, 65.0, 7_380.0, 273_600.0].map(|secs| duration(Some(secs)));
        assert_eq!(read, ["250 ms", "5.00 s", "1m 05s", "2h 03m", "3d 04h"]);
        assert_eq!(duration(None), "-");
    }

    #[test]
    fn sizes_are_read_in_binary_units() {
        let read = [0, 1023, 1536, 5 << 20, 3 << 40].map(bytes);
        assert_eq!(read, ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3.0 TiB"]);
    }

    #[test]
    fn times_lose_their_fraction_only() {
        assert_eq!(
            time(Some("2026-01-01T00:00:00.123456789Z")),
            "2026-01-01T00:00:00Z"
        );
        assert_eq!(time(Some("yesterday")), "yesterday");
        assert_eq!(time(None), "-");
    }

    #[test]
    fn lines_are_aligned_and_unpainted_without_colours() {
        let mut table = Table::new(&[("RUN", Side::Left), ("N", Side::Right)]);
        table.push(&["a\x1b".to_owned(), "7".to_owned()]);
        let mut out = Vec::new();
        table
            .line(&mut out, &[7, 3], &table.rows[0].0, false)
            .unwrap();
        assert_eq!(out, b"a\\u{1b}    7\n");
        assert_eq!(painted("failed"), "\x1b[31mfailed\x1b[0m");
    }
}
