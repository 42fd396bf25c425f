//! One file per resource; and how the routes read their parameters.

pub mod artifacts;
pub mod crash;
pub mod edit;
pub mod events;
pub mod experiments;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod runs;
pub mod series;
pub mod sparklines;
pub mod stream;

use std::collections::HashSet;

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

/// The ranks of a list.
fn ranks(list: &str) -> Result<HashSet<u32>, ServeError> {
    let rank = |text: &str| {
        let rank = text.trim().parse::<u32>();
        rank.map_err(|_not_a_rank| ServeError::BadRequest {
            what: format!("rank {text:?} is no number"),
        })
    };
    list.split(',').map(rank).collect()
}

/// Splits at commas that have no backslash before them.
fn names(list: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        match c {
            ',' => found.push(String::new()),
            c => {
                let c = if c == '\\' { chars.next() } else { Some(c) };
                if let Some(name) = found.last_mut() {
                    name.extend(c);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_commas_can_be_asked_for() {
        assert_eq!(names(r"a,b\,c,d\\"), ["a", "b,c", "d\\"]);
        assert_eq!(names(""), [""]);
    }
}
