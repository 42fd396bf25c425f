//! The two streams of the process: data on stdout, everything else on stderr.

use std::env;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use tracing_subscriber::EnvFilter;

/// Where a command writes.
#[derive(Debug)]
pub struct Console {
    out: BufWriter<Stdout>,
    colour_out: bool,
    colour_err: bool,
    terminal: bool,
}

impl Console {
    /// The process's own streams.
    pub fn standard() -> Self {
        let terminal = io::stdout().is_terminal();
        let wanted = env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && env::var_os("TERM").is_none_or(|t| t != "dumb");
        Self {
            out: BufWriter::new(io::stdout()),
            colour_out: wanted && terminal,
            colour_err: wanted && io::stderr().is_terminal(),
            terminal,
        }
    }

    /// Sends the log of the libraries to stderr.
    pub fn start_log() {
        let filter =
            EnvFilter::try_from_env("EXPMAN_LOG").unwrap_or_else(|_unset| EnvFilter::new("warn"));
        let log = tracing_subscriber::fmt()
            // The log of an owner may lie on the disk that is full, and that must not end it.
            .log_internal_errors(false)
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(false);
        // A host program, or an earlier call in this process, may have set one up already.
        drop(log.try_init());
    }

    /// Where data goes.
    pub const fn out(&mut self) -> &mut (impl Write + Send + use<>) {
        &mut self.out
    }

    /// Whether stdout may be coloured.
    pub const fn coloured(&self) -> bool {
        self.colour_out
    }

    /// Whether stdout is a terminal.
    pub const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Hands everything to stdout.
    ///
    /// # Errors
    /// When stdout takes no more.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }

    /// Tells what is worth knowing.
    pub fn note(&self, text: &str) {
        self.tell("note", "\x1b[36m", text);
    }

    /// Tells what is wrong but did not stop the command.
    pub fn warn(&self, text: &str) {
        self.tell("warning", "\x1b[33m", text);
    }

    /// Tells why the command failed.
    pub fn error(&self, text: &str) {
        self.tell("error", "\x1b[31m", text);
    }

    /// Tells what to do about an error.
    pub fn hint(&self, text: &str) {
        self.tell("hint", "\x1b[36m", text);
    }

    fn tell(&self, kind: &str, colour: &str, text: &str) {
        let text = plain(text);
        let line = if self.colour_err {
            format!("{colour}{kind}:\x1b[0m {text}\n")
        } else {
            format!("{kind}: {text}\n")
        };
        // With stderr gone too there is nobody to tell.
        drop(io::stderr().write_all(line.as_bytes()));
    }
}

/// Text in one line that can't move the cursor, recolour the terminal or read backwards.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Control characters, line separators, and characters that hide or turn text.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

/// Passes text through to a terminal, with what could steer it made visible.
pub struct Sanitized<W>(pub W);

impl<W: Write> Write for Sanitized<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Exports write whole cells, so no character is cut in two.
        for chunk in bytes.utf8_chunks() {
            for line in chunk.valid().split_inclusive('\n') {
                let (text, end) = line
                    .strip_suffix('\n')
                    .map_or((line, ""), |text| (text, "\n"));
                self.0.write_all(plain(text).as_bytes())?;
                self.0.write_all(end.as_bytes())?;
            }
            if !chunk.invalid().is_empty() {
                self.0.write_all("\u{FFFD}".as_bytes())?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_made_visible() {
        assert_eq!(
            plain("a\x1b[2Jb\r\nc\u{9b}d\u{202e}e ünï"),
            "a\\u{1b}[2Jb\\r\\nc\\u{9b}d\\u{202e}e ünï"
        );
    }

    #[test]
    fn sanitized_output_keeps_its_lines() {
        let mut out = Vec::new();
        Sanitized(&mut out)
            .write_all(b"a,\x1b[31mb\nc\xff\n")
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "a,\\u{1b}[31mb\nc\u{FFFD}\n"
        );
    }
}
