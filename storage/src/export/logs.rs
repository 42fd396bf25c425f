//! The lines of a run as a file for other programs: JSON lines or Parquet, a row for each record.
//!
//! Every field comes back exactly. A long line of output was stored in pieces and stays in them: all but the last
//! have `ends_line` false, and their texts in the order of `seq` are the line, byte for byte.
//! A line that is no record, since another program wrote it, has nothing but its text.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    BinaryBuilder, BooleanBuilder, Int16Builder, Int32Builder, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder, UInt32Builder, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use base64::prelude::{BASE64_STANDARD, Engine};
use expman_model::Stream;
use expman_model::time::rfc3339_us;
use serde_json::{Value as Json, json};

use super::{all_or_nothing, columnar};
use crate::error::{At, Result};
use crate::text::LogLine;

/// Rows of a batch …
const BATCH_ROWS: usize = 8_192;
/// … and bytes of its texts, unless one is longer.
const BATCH_BYTES: usize = 4 << 20;

/// How the lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One object a line; bytes that are no UTF-8 as `text_base64`.
    Jsonl,
    /// Columns; the text as raw bytes.
    Parquet,
}

/// Writes lines to a file, all or nothing; what stood there is replaced. Returns their number.
///
/// # Errors
/// When a line can't be read or the file can't be written; it then has its old content.
pub fn to_file(
    path: &Path,
    lines: impl Iterator<Item = Result<LogLine>>,
    format: LogFormat,
) -> Result<usize> {
    all_or_nothing(path, |out, path| to_writer(out, path, lines, format))
}

/// Writes lines to `out`, which messages call `path`; no more than a few megabytes of them are held at once.
/// Returns their number.
///
/// # Errors
/// When a line can't be read, or `out` takes no more.
pub fn to_writer(
    out: impl Write + Send,
    path: &Path,
    mut lines: impl Iterator<Item = Result<LogLine>>,
    format: LogFormat,
) -> Result<usize> {
    if format == LogFormat::Jsonl {
        let mut out = BufWriter::with_capacity(1 << 16, out);
        let mut rows = 0;
        for line in lines {
            put_json(&mut out, &line?).at("write", path)?;
            rows += 1;
        }
        out.flush().at("write", path)?;
        return Ok(rows);
    }
    let schema = schema();
    let batches = std::iter::from_fn(|| {
        let mut batch = Columns::default();
        while batch.rows < BATCH_ROWS && batch.bytes < BATCH_BYTES {
            match lines.next() {
                Some(Ok(line)) => batch.push(&line),
                Some(Err(e)) => return Some(Err(e)),
                None => break,
            }
        }
        (batch.rows > 0).then(|| batch.finish(&schema).at("encode", path))
    });
    columnar::write(out, path, &schema, batches)
}

/// Writes one line as an object and a newline: every field, null where the line has none.
///
/// # Errors
/// When `out` takes no more.
pub fn put_json(out: &mut impl Write, line: &LogLine) -> std::io::Result<()> {
    let known = is_record(line);
    let mut fields = json!({
        "time": known.then(|| rfc3339_us(line.timestamp_us)),
        "rank": known.then_some(line.rank),
        "stream": stream(line),
        "level": line.level.map(expman_model::Level::name),
        "logger": some(&line.logger),
        "file": some(&line.file),
        "line": line_number(line),
        "seq": known.then_some(line.seq),
        "ends_line": line.ends_line,
    });
    match std::str::from_utf8(&line.text) {
        Ok(text) => fields["text"] = json!(text),
        Err(_not_utf8) => {
            fields["text_base64"] = Json::String(BASE64_STANDARD.encode(&line.text));
        }
    }
    serde_json::to_writer(&mut *out, &fields)?;
    out.write_all(b"\n")
}

const fn is_record(line: &LogLine) -> bool {
    line.level.is_some() || line.stream.is_some()
}

/// Where a line came from: a message, or one of the two streams.
fn stream(line: &LogLine) -> Option<&'static str> {
    match line.stream {
        Some(Stream::Out) => Some("out"),
        Some(Stream::Err) => Some("err"),
        None => line.level.map(|_| "log"),
    }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn line_number(line: &LogLine) -> Option<u32> {
    (!line.file.is_empty()).then_some(line.line)
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let field = |name: &str, kind, null| Field::new(name, kind, null);
    Arc::new(Schema::new(vec![
        field("timestamp", time, true),
        field("rank", DataType::Int32, true),
        field("stream", DataType::Utf8, true),
        field("level", DataType::Int16, true),
        field("logger", DataType::Utf8, true),
        field("file", DataType::Utf8, true),
        field("line", DataType::UInt32, true),
        field("seq", DataType::UInt64, true),
        field("ends_line", DataType::Boolean, false),
        field("text", DataType::Binary, false),
    ]))
}

#[derive(Debug, Default)]
struct Columns {
    rows: usize,
    bytes: usize,
    timestamp: TimestampMicrosecondBuilder,
    rank: Int32Builder,
    stream: StringBuilder,
    level: Int16Builder,
    logger: StringBuilder,
    file: StringBuilder,
    line: UInt32Builder,
    seq: UInt64Builder,
    ends_line: BooleanBuilder,
    text: BinaryBuilder,
}

impl Columns {
    fn push(&mut self, line: &LogLine) {
        let known = is_record(line);
        self.rows += 1;
        self.bytes += line.text.len();
        self.timestamp
            .append_option(known.then_some(line.timestamp_us));
        self.rank
            .append_option(i32::try_from(line.rank).ok().filter(|_| known));
        self.stream.append_option(stream(line));
        self.level.append_option(line.level.map(|l| i16::from(l.0)));
        self.logger.append_option(some(&line.logger));
        self.file.append_option(some(&line.file));
        self.line.append_option(line_number(line));
        self.seq.append_option(known.then_some(line.seq));
        self.ends_line.append_value(line.ends_line);
        self.text.append_value(&line.text);
    }

    fn finish(mut self, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let timestamp = self.timestamp.finish().with_timezone("UTC");
        RecordBatch::try_new(
            Arc::clone(schema),
            vec![
                Arc::new(timestamp),
                Arc::new(self.rank.finish()),
                Arc::new(self.stream.finish()),
                Arc::new(self.level.finish()),
                Arc::new(self.logger.finish()),
                Arc::new(self.file.finish()),
                Arc::new(self.line.finish()),
                Arc::new(self.seq.finish()),
                Arc::new(self.ends_line.finish()),
                Arc::new(self.text.finish()),
            ],
        )
    }
}
