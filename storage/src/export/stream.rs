//! The exact rows of a run, one after the other, for as many as there are: what is in memory is one batch.

use std::io::Write;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;

use super::Format;
use super::text::TextTable;
use crate::catalog::{RunEntry, RunKind};
use crate::error::{At, Result};
use crate::guard::guarded;
use crate::legacy;
use crate::reader::{Files, Filter, read_logs};
use crate::rows::{Row, Rows, schema};
use crate::scan::{BATCH_ROWS, each_row};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Comma-separated, with a header.
    Csv,
    /// A stream of Arrow record batches.
    Arrow,
}

/// Writes the wanted rows in the order in which they are stored, and returns their number.
///
/// # Errors
/// When a file can't be read, or `out` takes no more.
pub fn rows(run: &RunEntry, filter: &Filter, encoding: Encoding, out: impl Write) -> Result<usize> {
    let path = run.dir.root();
    let mut sink = Sink::new(out, path, encoding)?;
    if run.kind == RunKind::ExpmanRs {
        legacy::each_row(run, filter, &mut |row| sink.take(row))?;
    } else {
        let mut files = Files::settled(&run.dir)?;
        for sealed in &files.sealed {
            guarded(sealed.path(), || {
                for batch in sealed.batches(filter)? {
                    let batch = batch.at("read", sealed.path())?;
                    each_row(sealed.path(), &batch, |row| {
                        if filter.admits(row) {
                            sink.take(row);
                        }
                    })?;
                    sink.failed.take().map_or(Ok(()), Err)?;
                }
                Ok(())
            })?;
        }
        // What is left is in the logs.
        let mut end = files.sealed.last().map_or(0, |sealed| sealed.hi);
        let logs = std::mem::take(&mut files.logs);
        read_logs(&files.dir, logs, &mut end, &mut Vec::new(), &mut |rows| {
            let wanted = rows.iter().filter(|row| filter.admits(row));
            wanted.for_each(|row| sink.take(&row));
        })?;
    }
    sink.finish()
}

struct Sink<'a, W: Write> {
    out: Out<W>,
    path: &'a Path,
    rows: Rows,
    written: usize,
    /// The first error; what comes behind it is not written.
    failed: Option<crate::StorageError>,
}

enum Out<W: Write> {
    Csv(W, TextTable),
    Arrow(Box<StreamWriter<W>>),
}

impl<'a, W: Write> Sink<'a, W> {
    fn new(mut out: W, path: &'a Path, encoding: Encoding) -> Result<Self> {
        let schema = schema();
        let out = match encoding {
            Encoding::Csv => {
                let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                let table = TextTable::new(&names, Format::Csv);
                out.write_all(&table.head).at("write", path)?;
                Out::Csv(out, table)
            }
            Encoding::Arrow => Out::Arrow(Box::new(
                StreamWriter::try_new(out, &schema).at("write", path)?,
            )),
        };
        Ok(Self {
            out,
            path,
            rows: Rows::default(),
            written: 0,
            failed: None,
        })
    }

    fn take(&mut self, row: &Row<'_>) {
        if self.failed.is_some() {
            return;
        }
        self.rows.push_row(row);
        if self.rows.len() >= BATCH_ROWS {
            self.failed = self.write().err();
        }
    }

    fn write(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        let order: Vec<u32> = (0..).take(rows.len()).collect();
        let batch: RecordBatch = rows.batch(&order).at("encode", self.path)?;
        self.written += rows.len();
        match &mut self.out {
            Out::Csv(out, table) => {
                let text = table.text(self.path, &batch)?;
                out.write_all(&text).at("write", self.path)
            }
            Out::Arrow(out) => out.write(&batch).at("write", self.path),
        }
    }

    fn finish(mut self) -> Result<usize> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        if !self.rows.is_empty() {
            self.write()?;
        }
        match &mut self.out {
            Out::Csv(out, _) => out.flush().at("write", self.path)?,
            Out::Arrow(out) => out.finish().at("write", self.path)?,
        }
        Ok(self.written)
    }
}
