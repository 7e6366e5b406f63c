//! A request's body as a reader.
//!
//! A body that breaks off is its client's hang-up, and cancels what it was for.

use std::io;

use axum::body::Body;
use futures_util::TryStreamExt;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;

/// Reads the body as it arrives. A client that hangs up is an error, never the end; `client` is
/// cancelled before the error is told.
pub fn reader(body: Body, client: CancellationToken) -> impl AsyncRead + Send + Unpin {
    let bytes = body.into_data_stream().map_err(move |error| {
        client.cancel();
        io::Error::other(error)
    });
    StreamReader::new(bytes)
}
