//! A run as the list of runs needs it: its summary, and what its columns may show.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;

use expman_model::{MetricSummary, Param};
use expman_storage::catalog::Place;
use serde_json::{Value as Json, json};

use crate::wire::{self, Number, RunSummary, WireValue};

/// Parameters of one run that columns may show.
const PARAMS_MAX: usize = 2_000;

/// See the module.
#[derive(Debug)]
pub struct Card {
    /// Where the run is, and as of when.
    pub place: Place,
    /// The version of the list that it came with.
    pub version: u64,
    /// Whether its record has to be read again at every look.
    pub is_owned: bool,
    /// A line of the list.
    pub summary: RunSummary,
    metrics: BTreeMap<Box<str>, MetricSummary>,
    params: OnceLock<BTreeMap<String, Json>>,
}

/// A column that a client asks for: `metric:loss`, `min:loss`, `max:loss`, `scalar:x`, `param:optimizer.lr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// As it was asked for.
    pub text: String,
    kind: Kind,
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Last,
    Min,
    Max,
    Scalar,
    Param,
}

/// The text is not a column.
#[derive(Debug, thiserror::Error)]
#[error("column {0:?} does not begin with metric:, min:, max:, scalar: or param:")]
pub struct NoColumn(String);

impl FromStr for Column {
    type Err = NoColumn;

    fn from_str(text: &str) -> Result<Self, NoColumn> {
        let (kind, name) = text.split_once(':').ok_or(NoColumn(text.to_owned()))?;
        let kind = match kind {
            "metric" => Kind::Last,
            "min" => Kind::Min,
            "max" => Kind::Max,
            "scalar" => Kind::Scalar,
            "param" => Kind::Param,
            _ => return Err(NoColumn(text.to_owned())),
        };
        Ok(Self {
            text: text.to_owned(),
            kind,
            name: name.to_owned(),
        })
    }
}

impl Card {
    /// Reads a run's record.
    #[must_use]
    pub fn of(place: Place, version: u64) -> Self {
        let entry = place.open();
        let summary = RunSummary::from(&entry);
        let metrics = entry.meta.metrics.into_iter();
        Self {
            place,
            version,
            is_owned: entry.owned,
            summary,
            metrics: metrics.map(|(name, m)| (name.into(), m)).collect(),
            params: OnceLock::new(),
        }
    }

    /// Whether both tell a client the same.
    #[must_use]
    pub fn says_as(&self, other: &Self) -> bool {
        self.is_owned == other.is_owned
            && self.summary == other.summary
            && self.place == other.place
    }

    /// The line of the list, with the columns that are asked for; reads the run's parameters if one needs them.
    #[must_use]
    pub fn line(&self, columns: &[Column]) -> Json {
        let mut line = json!(self.summary);
        if !columns.is_empty() {
            let values = columns
                .iter()
                .filter_map(|c| Some((c.text.clone(), self.value(c)?)));
            line["columns"] = Json::Object(values.collect());
        }
        line
    }

    fn value(&self, column: &Column) -> Option<Json> {
        let name = column.name.as_str();
        let metric = || self.metrics.get(name);
        match column.kind {
            Kind::Last => Some(json!(WireValue::from(&metric()?.last))),
            Kind::Min => Some(json!(Number(metric()?.min?))),
            Kind::Max => Some(json!(Number(metric()?.max?))),
            Kind::Scalar => Some(json!(self.summary.scalar(name)?)),
            Kind::Param => self.params().get(name).cloned(),
        }
    }

    /// Names of the run's metrics.
    pub fn metrics(&self) -> impl Iterator<Item = &str> {
        self.metrics.keys().map(AsRef::as_ref)
    }

    /// The run's parameters, nested names joined with dots; nothing when they can't be read, which the run's own
    /// page tells.
    pub fn params(&self) -> &BTreeMap<String, Json> {
        self.params.get_or_init(|| {
            let mut found = BTreeMap::new();
            let path = Path::new(&self.place.root).join("config.yaml");
            if let Ok(Some(tree)) = expman_storage::yaml::read::<Param>(&path) {
                flatten("", &tree, &mut found);
            }
            found
        })
    }
}

fn flatten(at: &str, tree: &Param, into: &mut BTreeMap<String, Json>) {
    match tree {
        Param::Map(entries) if !entries.is_empty() || at.is_empty() => {
            for (name, value) in entries {
                let name = if at.is_empty() {
                    name.clone()
                } else {
                    format!("{at}.{name}")
                };
                flatten(&name, value, into);
            }
        }
        leaf if into.len() < PARAMS_MAX => drop(into.insert(at.to_owned(), wire::param(leaf))),
        _ => {}
    }
}
