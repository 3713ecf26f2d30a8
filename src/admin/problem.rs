//! Errors as RFC 9457 problem details.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use crate::config::{Fault, Refused};

/// The media type of problem details (RFC 9457 §3).
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Problem details (RFC 9457 §3.1). The type is always `about:blank`: the status says what is
/// wrong, the detail says more of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// `about:blank`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The phrase of the status.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// One sentence for the operator.
    pub detail: String,
    /// What is wrong with the configuration, by file and line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FileError>,
}

/// One mistake in a configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileError {
    /// The file.
    pub file: String,
    /// The line, counted from one; absent if the file as a whole is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// What was found there, and what was expected.
    pub what: String,
}

impl Problem {
    /// A problem with this status.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    /// Files that can't be used: the request conflicts with what is on the disk.
    pub(super) fn refused(refused: &Refused) -> Self {
        let detail = format!("nothing was reloaded: {refused}");
        let errors = refused.errors.iter().map(FileError::from).collect();
        Self { errors, ..Self::new(StatusCode::CONFLICT, detail) }
    }
}

impl From<&Fault> for FileError {
    fn from(fault: &Fault) -> Self {
        Self {
            file: fault.place.file.display().to_string(),
            line: (fault.place.line > 0).then_some(fault.place.line),
            what: fault.what.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, MEDIA_TYPE);
        response
    }
}

/// Gives errors that the framework answers by itself the form of all others.
pub(super) async fn in_every_error(response: Response) -> Response {
    let status = response.status();
    let is_problem = response.headers().get(header::CONTENT_TYPE) == Some(&MEDIA_TYPE);
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let detail = match status {
        StatusCode::METHOD_NOT_ALLOWED => "this path does not take that method",
        StatusCode::NOT_FOUND => "there is no such path; GET / lists them",
        _ => "the request can't be served",
    };
    let mut problem = Problem::new(status, detail).into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        problem.headers_mut().insert(header::ALLOW, allow.clone());
    }
    problem
}
