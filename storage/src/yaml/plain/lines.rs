//! A text by its lines, and texts of several lines in it.

use super::{Result, Unusual};

/// Where the reader stands: in front of a line, or of what is left of it.
pub(super) struct Lines<'de> {
    rest: &'de str,
    /// Without the spaces in front.
    pub(super) line: &'de str,
    pub(super) indent: usize,
    pub(super) is_over: bool,
    /// How many maps and lists it is in.
    pub(super) depth: usize,
}

impl<'de> Lines<'de> {
    pub(super) fn new(text: &'de str) -> Result<Self> {
        let mut lines = Self {
            rest: text,
            line: "",
            indent: 0,
            is_over: false,
            depth: 0,
        };
        lines.advance()?;
        Ok(lines)
    }

    pub(super) fn advance(&mut self) -> Result<()> {
        let Some((line, rest)) = self.rest.split_once('\n') else {
            self.is_over = true;
            return if self.rest.is_empty() {
                Ok(())
            } else {
                Err(Unusual)
            };
        };
        self.line = line.trim_start_matches(' ');
        self.indent = line.len() - self.line.len();
        self.rest = rest;
        if self.line.is_empty() || line.ends_with(' ') {
            return Err(Unusual);
        }
        Ok(())
    }

    /// Passes over what stands in front of a part of the line.
    pub(super) fn enter(&mut self, part: &'de str) {
        self.indent += self.line.len() - part.len();
        self.line = part;
    }

    /// The lines that stand further in than `above`: as they are, or long ones folded at a space.
    pub(super) fn text(&mut self, header: Header, above: Option<usize>) -> Result<String> {
        let mut text = String::new();
        let mut indent = None;
        while let Some((line, rest)) = self.rest.split_once('\n') {
            let content = line.trim_start_matches(' ');
            let own = line.len() - content.len();
            if content.is_empty() {
                // Nothing may stand in an empty line, and none may come first.
                if own > 0 || indent.is_none() || header.is_folded {
                    return Err(Unusual);
                }
            } else if own < *indent.get_or_insert(own) {
                break;
            } else if indent <= above || header.is_folded && Some(own) > indent {
                return Err(Unusual);
            }
            if header.is_folded && !text.is_empty() {
                text.push(' ');
            }
            text.push_str(line.get(indent.unwrap_or(0)..).unwrap_or(""));
            if !header.is_folded {
                text.push('\n');
            }
            self.rest = rest;
        }
        if text.is_empty() {
            return Err(Unusual);
        }
        text.truncate(text.trim_end_matches('\n').len());
        if header.keeps_end {
            text.push('\n');
        }
        self.advance()?;
        Ok(text)
    }
}

/// What stands in front of a text of several lines.
#[derive(Clone, Copy)]
pub(super) struct Header {
    is_folded: bool,
    keeps_end: bool,
}

impl Header {
    pub(super) fn of(text: &str) -> Option<Self> {
        let (is_folded, keeps_end) = match text {
            "|" => (false, true),
            "|-" => (false, false),
            ">" => (true, true),
            ">-" => (true, false),
            _ => return None,
        };
        Some(Self {
            is_folded,
            keeps_end,
        })
    }
}
