//! How lines are shown: raw with their rank in front, folded, or as JSON.

use std::io::{self, Write};

use expman_model::Level;
use expman_model::fold::{Fold, Folded, Line};
use expman_model::time::{now_us, rfc3339_ms};
use expman_storage::export::logs::put_json;
use expman_storage::lines::{Lines, kind, last_state, level};
use expman_storage::text::LogLine;

use crate::console::{Console, plain};

/// Colours of ranks, in turn.
const COLOURS: [&str; 6] = [
    "\x1b[34m", "\x1b[32m", "\x1b[35m", "\x1b[36m", "\x1b[33m", "\x1b[94m",
];

/// Shows lines.
pub struct Show<'a> {
    console: &'a mut Console,
    json: bool,
    time: bool,
    /// Whether the run has more than one rank: only then the rank stands in front.
    ranks: bool,
    fold: Option<Fold>,
    lines: Lines,
}

impl<'a> Show<'a> {
    /// Shows lines on a console; with `window_us` folded.
    pub fn new(
        console: &'a mut Console,
        json: bool,
        time: bool,
        ranks: bool,
        window_us: Option<i64>,
    ) -> Self {
        Self {
            console,
            json,
            time,
            ranks,
            fold: window_us.map(Fold::new),
            lines: Lines::default(),
        }
    }

    /// Takes in a record; a line that came in pieces is shown when it is whole.
    pub fn line(&mut self, line: LogLine) -> io::Result<()> {
        if self.json {
            return put_json(self.console.out(), &line);
        }
        match self.lines.push(line) {
            Some(whole) => self.whole(&whole),
            None => Ok(()),
        }
    }

    /// Nothing new came: what is complete is shown.
    pub fn pause(&mut self) -> io::Result<()> {
        if let Some(fold) = &mut self.fold {
            let told = fold.close_due(now_us());
            self.write_folded(&told)?;
        }
        self.console.out().flush()
    }

    /// Shows what is left.
    pub fn end(&mut self) -> io::Result<()> {
        for line in self.lines.end() {
            self.whole(&line)?;
        }
        if let Some(fold) = &mut self.fold {
            let told = fold.close();
            self.write_folded(&told)?;
        }
        self.console.out().flush()
    }

    fn whole(&mut self, line: &LogLine) -> io::Result<()> {
        let text = last_state(&line.text);
        if let Some(fold) = &mut self.fold {
            let (at_us, rank, kind) = (line.timestamp_us, line.rank, kind(line));
            let told = fold.push(&Line {
                at_us,
                rank,
                kind,
                text,
            });
            return self.write_folded(&told);
        }
        let front = self.ranks.then(|| line.rank.to_string());
        self.write(
            line.timestamp_us,
            front,
            line.rank,
            kind(line),
            &String::from_utf8_lossy(text),
            1,
        )
    }

    fn write_folded(&mut self, told: &[Folded]) -> io::Result<()> {
        for folded in told {
            let first = folded.ranks.as_slice().first().copied().unwrap_or(0);
            let front = self.ranks.then(|| folded.ranks.to_string());
            self.write(
                folded.at_us,
                front,
                first,
                folded.kind,
                &folded.text(),
                folded.count,
            )?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        at_us: i64,
        ranks: Option<String>,
        rank: u32,
        kind: u16,
        text: &str,
        count: u64,
    ) -> io::Result<()> {
        let coloured = self.console.coloured();
        let paint = |colour: &str, text: String| {
            if coloured {
                format!("{colour}{text}\x1b[0m")
            } else {
                text
            }
        };
        let mut front = Vec::new();
        if self.time {
            front.push(rfc3339_ms(at_us));
        }
        if let Some(ranks) = ranks {
            front.push(paint(
                COLOURS[rank as usize % COLOURS.len()],
                format!("[{ranks}]"),
            ));
        }
        if count > 1 {
            front.push(format!("×{count}"));
        }
        match level(kind) {
            None | Some(Level::INFO) => {}
            Some(level) if level >= Level::ERROR => front.push(paint("\x1b[31m", level.name())),
            Some(level) if level >= Level::WARN => front.push(paint("\x1b[33m", level.name())),
            Some(level) => front.push(level.name()),
        }
        front.push(String::new());
        let front = front.join(" ");
        let out = self.console.out();
        for line in text.split('\n') {
            writeln!(out, "{front}{}", readable(line))?;
        }
        Ok(())
    }
}

/// A line as a terminal may have it: the last state of a progress bar, no colours, nothing that steers.
pub fn readable(line: &str) -> String {
    // Cut at carriage returns, text stays text.
    let state = std::str::from_utf8(last_state(line.as_bytes())).unwrap_or(line);
    plain(&without_escapes(state))
}

/// A line without colours and other escape sequences.
fn without_escapes(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            if c == '\t' {
                out.push_str("    ");
            } else {
                out.push(c);
            }
            continue;
        }
        match chars.next() {
            // A control sequence ends with a letter or one of `@`…`~`.
            Some('[') => drop(chars.find(|c| ('@'..='~').contains(c))),
            // A command to the terminal ends with a bell or with `ESC \`.
            Some(']') => {
                while let Some(c) = chars.next() {
                    if c == '\x07' || c == '\x1b' && chars.next_if_eq(&'\\').is_some() {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_taken_out_whole() {
        assert_eq!(
            without_escapes("\x1b[1;31mred\x1b[0m\tb\x1b]0;title\x07c\x1b]8;;x\x1b\\d\x1b7e"),
            "red    bcde"
        );
        assert_eq!(without_escapes("cut\x1b[31"), "cut");
    }
}
