//! bangerd's HTTP API: the types behind `schema/openapi.json`.
//!
//! One file per subject. Requests refuse unknown fields, answers may gain fields. Every request
//! carries [`VERSION_HEADER`]; a daemon of another [`VERSION`] refuses it with
//! `version_mismatch`. Paths are collected in [`path`], so that client and server cannot differ.
//!
//! Long actions are *operations* (see [`operation`]): the answer is a stream of
//! [`operation::OperationEvent`] as NDJSON while the client stays (attached), or `202` with the
//! operation where the request asked for `?detach=true`.

pub mod daemon;
pub mod exec;
pub mod image;
pub mod kernel;
pub mod operation;
pub mod path;
pub mod vm;

/// Version of the API. Raised only when an older client would misunderstand an answer.
pub const VERSION: u32 = 1;

/// Header by which a request says which version it speaks; required on everything below `/v1`.
pub const VERSION_HEADER: &str = "banger-api-version";

/// Media type of operation streams.
pub const NDJSON: &str = "application/x-ndjson";
