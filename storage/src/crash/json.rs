//! How a run failed, as JSON for other programs and for the page.

use base64::prelude::{BASE64_STANDARD, Engine};
use expman_model::Stream;
use expman_model::time::rfc3339_us;
use expman_model::traceback::Group;
use serde_json::{Value as Json, json};

use super::{Crash, Failure, LastLine, Said};
use crate::catalog::RunEntry;

impl Crash {
    /// The whole of it; text that is no UTF-8 as `text_base64`.
    #[must_use]
    pub fn to_json(&self, run: &RunEntry) -> Json {
        let failures: Vec<Json> = self.failures.iter().map(failure_json).collect();
        let tracebacks: Vec<Json> = self.tracebacks.iter().map(group_json).collect();
        json!({
            "run": format!("{}/{}", run.experiment, run.run),
            "status": run.meta.status,
            "live": run.is_live(),
            "healthy": self.is_empty(),
            "failures": failures,
            "tracebacks": tracebacks,
            "tracebacks_left_out": self.left_out,
            "children": self.children,
            "problems": self.problems,
        })
    }
}

impl LastLine {
    /// The level of a message; `out` or `err` of captured output.
    #[must_use]
    pub fn kind(&self) -> String {
        match (self.level, self.stream) {
            (Some(level), _) => level.name(),
            (None, Some(Stream::Err)) => "err".to_owned(),
            (None, _) => "out".to_owned(),
        }
    }
}

fn failure_json(failure: &Failure) -> Json {
    let process = &failure.process;
    json!({
        "rank": failure.rank,
        "attempt": process.attempt,
        "incarnation": process.incarnation,
        "host": process.host,
        "pid": process.pid,
        "state": process.state,
        "status": process.status,
        "ended_badly": failure.ended_badly(),
        "at": failure.at_us.map(rfc3339_us),
        "last_heard": failure.heard_us.map(rfc3339_us),
        "reason": failure.reason,
        "last_step": process.last_step,
        "tracebacks": failure.tracebacks,
        "lines": failure.lines.iter().map(line_json).collect::<Vec<_>>(),
    })
}

fn group_json(group: &Group) -> Json {
    let wordings = group
        .wordings
        .iter()
        .map(|w| json!({"ranks": w.ranks.as_slice(), "count": w.count, "text": w.text}));
    json!({
        "at": rfc3339_us(group.at_us),
        "ranks": group.ranks.as_slice(),
        "rank_set": group.ranks.to_string(),
        "count": group.count,
        "wordings": wordings.collect::<Vec<_>>(),
    })
}

fn line_json(line: &LastLine) -> Json {
    let mut fields = json!({
        "time": rfc3339_us(line.at_us),
        "stream": line.level.map_or_else(|| line.kind(), |_| "log".to_owned()),
    });
    if let Some(level) = line.level {
        fields["level"] = json!(level.name());
        fields["logger"] = json!(line.logger);
    }
    match &line.said {
        Said::Traceback(n) => fields["traceback"] = json!(n),
        Said::Text(text, cut) => {
            match std::str::from_utf8(text) {
                Ok(text) => fields["text"] = json!(text),
                Err(_not_utf8) => fields["text_base64"] = json!(BASE64_STANDARD.encode(text)),
            }
            if *cut > 0 {
                fields["bytes_left_out"] = json!(cut);
            }
        }
    }
    fields
}
