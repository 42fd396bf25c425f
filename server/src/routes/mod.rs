//! One file per resource; and how the routes read their parameters.

pub mod artifacts;
pub mod events;
pub mod experiments;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod runs;
pub mod series;
pub mod sparklines;
pub mod stream;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::ServeError;

/// The query of a request; a bad one is answered in our own words.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ServeError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ServeError> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(e) => Err(ServeError::BadRequest {
                what: e.body_text().to_lowercase(),
            }),
        }
    }
}

/// The answer to an API path that does not exist.
pub async fn unknown() -> ServeError {
    ServeError::NotFound { what: "this path" }
}
