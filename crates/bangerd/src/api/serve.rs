//! The connections: accepts, notes who is at the other end, speaks HTTP/1.1, ends in order.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::{debug, warn};

use super::drained::Drained;
use super::guard::{Connection, Peer};

/// Connections at once. Each exec holds one, so this also bounds those.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long answers in flight have to end once the daemon stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until `stop`; then lets answers in flight end, within a bound. Upgraded connections are
/// not waited for: their processes go on in the guest and can be joined again.
pub async fn serve(listener: UnixListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            warn!("refused a connection: {MAX_CONNECTIONS} are open");
            continue;
        };
        let router = router.clone();
        let stop = stop.clone();
        connections.spawn(async move {
            connection(stream, router, stop).await;
            drop(place);
        });
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN, async {
        while connections.join_next().await.is_some() {}
    });
    if drained.await.is_err() {
        warn!(
            open = connections.len(),
            "ended connections that did not end by themselves"
        );
    }
}

async fn connection(stream: UnixStream, router: Router, stop: CancellationToken) {
    let peer = Peer::of(&stream)
        .inspect_err(|error| warn!(%error, "the kernel does not say who connected"))
        .ok();
    let connection = Connection { peer };
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(|body| Body::new(Drained::new(body)));
        request.extensions_mut().insert(connection.clone());
        router.clone().call(request)
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(http);
    let ended = tokio::select! {
        ended = &mut http => ended,
        () = stop.cancelled() => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}
