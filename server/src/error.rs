//! The one error of this crate, which is also an answer.

use std::net::SocketAddr;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use expman_storage::StorageError;
use serde::Serialize;
use utoipa::ToSchema;

/// Why the server did not start, or did not answer as asked.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum ServeError {
    #[error("{what} is not known here")]
    NotFound { what: &'static str },
    #[error("{what}")]
    BadRequest { what: String },
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("too many {what} at once, at most {max}; try again later")]
    Busy { what: &'static str, max: usize },
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{what} can not be read: its content made the reader fail")]
    Unreadable { what: String },
    #[error("{what}")]
    Damaged { what: String },
    #[error("{what}")]
    Conflict { what: String },
    #[error("this server only reads: it was started with --read-only")]
    ReadOnly,
    #[error("live updates are off; start the server without --no-live")]
    NotLive,
    #[error("listen on {host}:{port}: {source}")]
    Bind {
        host: String,
        port: u16,
        source: std::io::Error,
    },
    #[error("serve on {addr}: {source}")]
    Serve {
        addr: SocketAddr,
        source: std::io::Error,
    },
    #[error("{base_dir}: {source}")]
    BaseDir {
        base_dir: String,
        source: std::io::Error,
    },
    #[error(
        "listening on {host}, which other machines can reach, needs a token (--token); without one use 127.0.0.1"
    )]
    TokenNeeded { host: String },
    #[error(
        "{what}: an origin is a scheme, a host and maybe a port, as in https://hub.example or http://localhost:*"
    )]
    NoOrigin { what: String },
    #[error("{what}: a base path begins with / and has no more than letters, digits and -._~/")]
    NoPath { what: String },
    #[error("the token must have at least {min} characters, of letters, digits and -._~")]
    WeakToken { min: usize },
}

/// Why a request was turned away before any route saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The Host header is not one of ours: somebody's domain name was pointed at this machine.
    #[error("this server is not reached under that host name")]
    Host,
    /// A page of another site sent the request.
    #[error("requests from other sites are refused")]
    Origin,
    /// A browser can't set this header for another site without asking first.
    #[error("requests that change something need the header x-expman")]
    Header,
    /// No token, or a wrong one.
    #[error(
        "this server needs its token: open /?token=… once in a browser, or send it as a bearer token"
    )]
    Token,
}

/// The body of every answer that is none.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// What is wrong, in words for people.
    error: String,
}

impl ServeError {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound { .. } | Self::NotLive | Self::Storage(StorageError::NoRun { .. }) => {
                StatusCode::NOT_FOUND
            }
            Self::BadRequest { .. } => StatusCode::BAD_REQUEST,
            Self::Conflict { .. } => StatusCode::CONFLICT,
            Self::Refused(Refusal::Host) => StatusCode::MISDIRECTED_REQUEST,
            Self::ReadOnly | Self::Refused(Refusal::Origin | Refusal::Header) => {
                StatusCode::FORBIDDEN
            }
            Self::Refused(Refusal::Token) => StatusCode::UNAUTHORIZED,
            Self::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Storage(e) if e.is_not_found() => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<serde_json::Error> for ServeError {
    /// An answer that has no JSON form.
    fn from(e: serde_json::Error) -> Self {
        Self::Unreadable {
            what: e.to_string(),
        }
    }
}

impl IntoResponse for ServeError {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::warn!(error = %self, "request failed");
        }
        let body = axum::Json(Problem {
            error: self.to_string(),
        });
        (status, body).into_response()
    }
}

/// Result of this crate.
pub type Result<T, E = ServeError> = std::result::Result<T, E>;
