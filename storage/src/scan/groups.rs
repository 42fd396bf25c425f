//! What the row groups of a file hold, without reading their values.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Int8Type, Int32Type, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;

use super::pruning::wanted;
use super::{BATCH_ROWS, Sealed};
use crate::error::{At, Result, StorageError};
use crate::guard::guarded;
use crate::reader::Filter;
use crate::rows::{KINDS, TEXT, schema};

/// One row group, as its statistics tell; `None` is what they don't.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) rows: u64,
    /// Least and greatest step; none where some row has no step.
    pub(crate) steps: Option<(i64, i64)>,
    pub(crate) attempts: Option<(i32, i32)>,
    /// Least and greatest whole number; zeros where there is none.
    pub(crate) ints: Option<(i64, i64)>,
    kinds: Option<(i32, i32)>,
}

impl Group {
    fn of(group: &RowGroupMetaData) -> Self {
        let statistics = |name: &str| {
            let mut columns = group.columns().iter();
            columns
                .find(|c| c.column_path().string() == name)
                .and_then(|c| c.statistics())
        };
        let short = |name| match statistics(name) {
            Some(Statistics::Int32(s)) => s.min_opt().copied().zip(s.max_opt().copied()),
            _ => None,
        };
        let long = |name| match statistics(name) {
            Some(Statistics::Int64(s)) => s.min_opt().copied().zip(s.max_opt().copied()),
            _ => None,
        };
        let nulls = |name| statistics(name).and_then(Statistics::null_count_opt);
        let no_ints = nulls("int_value") == u64::try_from(group.num_rows()).ok();
        let have_steps = nulls("step") == Some(0);
        Self {
            rows: u64::try_from(group.num_rows()).unwrap_or(0),
            steps: long("step").filter(|_| have_steps),
            attempts: short("attempt"),
            ints: long("int_value").or(no_ints.then_some((0, 0))),
            kinds: short("kind"),
        }
    }
}

impl Sealed {
    /// Its row groups.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let groups = self.plain.metadata().row_groups();
        groups.iter().map(Group::of).collect()
    }

    /// How many rows are read to find the wanted ones.
    ///
    /// # Errors
    /// When the index of the pages can't be read.
    pub(crate) fn touched(&self, filter: &Filter) -> Result<u64> {
        guarded(self.path(), || {
            let meta = self.indexed()?.metadata();
            let (groups, selection) = wanted(meta, filter);
            Ok(selection.map_or_else(
                || {
                    groups
                        .iter()
                        .map(|&g| Group::of(meta.row_group(g)).rows)
                        .sum()
                },
                |selection| selection.row_count() as u64,
            ))
        })
    }

    /// Hands over each name in a row group with the kinds of its values, some more than once.
    ///
    /// # Errors
    /// When the file can't be read, or has other columns than ours.
    pub(crate) fn kinds(
        &self,
        number: usize,
        group: &Group,
        mut each: impl FnMut(&str, u8),
    ) -> Result<()> {
        let path = self.path();
        let known = group.kinds.filter(|(least, greatest)| least == greatest);
        let known = known.and_then(|(kind, _)| u8::try_from(kind).ok());
        let other = || StorageError::Damaged {
            path: path.to_owned(),
            offset: 0,
            what: "it has other columns".to_owned(),
        };
        guarded(path, || {
            let options = ArrowReaderOptions::new().with_schema(Arc::new(numbered_names()));
            let meta = ArrowReaderMetadata::try_new(Arc::clone(self.plain.metadata()), options)
                .at("read", path)?;
            let builder =
                ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), meta);
            let columns: &[&str] = if known.is_some() {
                &["key"]
            } else {
                &["key", "kind"]
            };
            let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
            let batches = builder
                .with_row_groups(vec![number])
                .with_projection(mask)
                .with_batch_size(BATCH_ROWS)
                .build()
                .at("read", path)?;
            // By the number of the name, a bit for each kind.
            let mut seen: Vec<u8> = Vec::new();
            for batch in batches {
                let batch = batch.at("read", path)?;
                let names = batch.column(0).as_dictionary_opt::<Int32Type>();
                let names = names.ok_or_else(other)?;
                let texts = names.values().as_string_opt::<i32>().ok_or_else(other)?;
                seen.clear();
                seen.resize(texts.len(), 0);
                let mut see = |name: i32, kind: u8| {
                    let name = usize::try_from(name).ok();
                    if let Some(seen) = name.and_then(|name| seen.get_mut(name)) {
                        // As readers of rows take it.
                        *seen |= 1 << kind.min(TEXT);
                    }
                };
                let numbers = names.keys().values();
                if let Some(kind) = known {
                    numbers.iter().for_each(|&name| see(name, kind));
                } else {
                    let kinds = batch.column(1).as_primitive_opt::<Int8Type>();
                    let kinds = kinds.ok_or_else(other)?.values();
                    let rows = numbers.iter().zip(kinds);
                    rows.for_each(|(&name, &kind)| see(name, kind.cast_unsigned()));
                }
                for (name, seen) in seen.iter().enumerate() {
                    let kinds = KINDS.into_iter().filter(|kind| seen & (1 << kind) != 0);
                    kinds.for_each(|kind| each(texts.value(name), kind));
                }
            }
            Ok(())
        })
    }
}

/// The columns, names as numbers.
fn numbered_names() -> Schema {
    let number = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let fields = schema();
    let fields = fields.fields().iter().map(|field| {
        let field: Field = field.as_ref().clone();
        if field.name() == "key" {
            field.with_data_type(number.clone())
        } else {
            field
        }
    });
    Schema::new(fields.collect::<Vec<_>>())
}
