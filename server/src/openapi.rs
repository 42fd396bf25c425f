//! The API's own description: made of the routes themselves, so that neither can be without the other.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::Operation;
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr,
    ResponseBuilder, ServerBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use crate::error::Problem;

/// Answers that any route may give, whatever it was asked.
const REFUSALS: [(&str, &str); 8] = [
    (
        "400",
        "Something in the question is wrong; the error names it",
    ),
    ("401", "The server needs its token"),
    (
        "403",
        "The request came from another site, lacks the header x-expman, or the server only reads",
    ),
    ("404", "It is not known here"),
    ("405", "The path has no such method"),
    ("421", "The server is not reached under that host name"),
    ("500", "A file can not be read; the error names it"),
    ("503", "Too much is asked at once; try again later"),
];

/// What stands in front of the routes.
pub fn head() -> OpenApi {
    let license = LicenseBuilder::new().name(env!("CARGO_PKG_LICENSE"));
    let info = InfoBuilder::new()
        .title("expman-mesh")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Runs below a folder, as `expman serve` tells them. Numbers that JSON has none for are \"NaN\", \
             \"inf\" and \"-inf\"; steps are whole numbers, timestamps RFC 3339 UTC or microseconds since 1970 UTC.",
        ))
        .license(Some(license.build()));
    let server = ServerBuilder::new().url("/api").build();
    OpenApiBuilder::new()
        .info(info.build())
        .servers(Some([server]))
        .build()
}

/// Says of every route how it refuses.
pub fn add_refusals(description: &mut OpenApi) {
    let components = description.components.get_or_insert_default();
    let name = Problem::name().into_owned();
    components.schemas.insert(name.clone(), Problem::schema());
    for item in description.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.patch].into_iter().flatten() {
            refuse(operation, &name);
        }
    }
}

fn refuse(operation: &mut Operation, problem: &str) {
    for (status, why) in REFUSALS {
        let body = ContentBuilder::new().schema(Some(Ref::from_schema_name(problem)));
        let response = ResponseBuilder::new()
            .description(why)
            .content("application/json", body.build());
        let responses = &mut operation.responses.responses;
        let response = RefOr::T(response.build());
        responses.entry(status.to_owned()).or_insert(response);
    }
}

/// The description as text, set out line by line.
pub fn text(description: &OpenApi) -> String {
    description.to_pretty_json().unwrap_or_else(|e| {
        tracing::error!("the API's description: {e}");
        String::new()
    })
}

/// That text as an answer.
pub fn answer(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
