//! Lines of a run's two logs.

use axum::Json;
use axum::extract::{Path, State};
use expman_model::Level;
use expman_storage::select::{Pattern, Select, Source};
use expman_storage::text::LogKind;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Params;
use crate::error::{Result, ServeError};
use crate::router::AppState;
use crate::search::Search;
use crate::wire::Line;

/// Lines of one answer.
const LINES_MAX: usize = 10_000;
/// Lines when the number is not said.
const LINES_DEFAULT: usize = 500;
/// Which of the two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFile {
    /// Messages.
    #[default]
    Run,
    /// Captured output.
    Console,
}

impl LogFile {
    /// As storage calls it.
    pub fn kind(self) -> LogKind {
        match self {
            Self::Run => LogKind::Run,
            Self::Console => LogKind::Console,
        }
    }
}

/// Which lines.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogParams {
    /// `run` for messages, `console` for captured output.
    #[serde(default)]
    #[param(inline)]
    file: LogFile,
    /// Ranks, such as `3` or `0,4-7`.
    rank: Option<String>,
    /// `out` or `err`.
    stream: Option<String>,
    /// Messages of this level and above.
    level: Option<String>,
    /// A regular expression that the text matches.
    grep: Option<String>,
    /// Whether letters match in either case.
    #[serde(default)]
    ignore_case: bool,
    /// So many lines at most; the last ones, unless `after` is given.
    tail: Option<usize>,
    /// Lines from this byte on, the cursor of an earlier answer.
    after: Option<u64>,
    /// Lines in front of this byte, the first of an earlier answer.
    before: Option<u64>,
    /// Lines around this moment, in microseconds since 1970 UTC: half in front of it, half behind.
    around: Option<i64>,
}

/// Some lines.
#[derive(Debug, Serialize, ToSchema)]
pub struct Logs {
    /// Byte behind the last line that was looked at.
    cursor: u64,
    /// Byte of the first one.
    first: u64,
    lines: Vec<Line>,
    /// Bytes of the text that were looked through.
    searched_bytes: u64,
    /// Whether there may be more in front of `first`.
    more: bool,
}

impl LogParams {
    fn select(&self) -> Result<Select, String> {
        let level =
            |text: &str| Level::parse(text).ok_or_else(|| format!("level {text:?} is not known"));
        let source = |text: &str| match text {
            "out" => Ok(Source::Out),
            "err" => Ok(Source::Err),
            _ => Err(format!("stream {text:?} is neither out nor err")),
        };
        let pattern =
            |text: &str| Pattern::new(text, self.ignore_case).map_err(|e| format!("grep: {e}"));
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Ok(Select {
            ranks: given(&self.rank).map(|list| list.parse()).transpose()?,
            source: given(&self.stream).as_deref().map(source).transpose()?,
            level: given(&self.level).as_deref().map(level).transpose()?,
            grep: given(&self.grep).as_deref().map(pattern).transpose()?,
            ..Select::default()
        })
    }
}

/// `GET /api/runs/{key}/logs?file=&rank=&stream=&level=&grep=&tail=&after=&before=&around=`
#[utoipa::path(
    get,
    path = "/runs/{key}/logs",
    tag = "logs",
    params(("key" = String, Path, description = "The run's key, from the list of runs"), LogParams),
    responses((status = 200, description = "Lines, and where they stand", body = Logs))
)]
pub async fn logs(
    State(state): State<AppState>,
    Path(key): Path<String>,
    Params(params): Params<LogParams>,
) -> Result<Json<Logs>> {
    let bad = |what: String| ServeError::BadRequest { what };
    let places = [
        params.after.is_some(),
        params.before.is_some(),
        params.around.is_some(),
    ];
    if places.iter().filter(|given| **given).count() > 1 {
        return Err(bad(
            "only one of after, before and around can be given".to_owned()
        ));
    }
    let select = params.select().map_err(bad)?;
    let run = state.index.run(&key).await?;
    let what = run.dir.root().display().to_string();
    let default = if params.after.is_some() {
        LINES_MAX
    } else {
        LINES_DEFAULT
    };
    let search = Search {
        dir: run.dir,
        kind: params.file.kind(),
        select,
        max: params.tail.unwrap_or(default).clamp(1, LINES_MAX),
    };
    let found = state.reads.run(what, move || match params {
        LogParams {
            after: Some(after), ..
        } => search.behind(after),
        LogParams {
            around: Some(at_us),
            ..
        } => search.around(at_us),
        LogParams { before, .. } => search.before(before),
    });
    let found = found.await?;
    Ok(Json(Logs {
        cursor: found.end,
        first: found.first,
        lines: found.lines,
        searched_bytes: found.searched,
        more: found.more,
    }))
}
