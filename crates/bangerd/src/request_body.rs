//! A request's body as a reader.

use std::io;

use axum::body::Body;
use futures_util::TryStreamExt;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

/// Reads the body as it arrives. A client that hangs up is an error, never the end.
pub fn reader(body: Body) -> impl AsyncRead + Send + Unpin {
    StreamReader::new(body.into_data_stream().map_err(io::Error::other))
}
