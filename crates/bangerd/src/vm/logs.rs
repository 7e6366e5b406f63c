//! `vm logs`: what was kept, and what comes.

use std::io;
use std::path::Path;
use std::time::Duration;

use banger_protocol::api::vm::LogQuery;
use banger_protocol::error::{ApiError, ErrorKind};
use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::time::sleep;

use super::console_log::ConsoleReader;
use super::main_log::MainLogReader;
use super::worker::View;

/// Between two looks at a log that is followed.
const POLL: Duration = Duration::from_millis(100);

enum Reader {
    Main(MainLogReader),
    Console(ConsoleReader),
}

impl Reader {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Reader::Main(reader) => reader.next(),
            Reader::Console(reader) => reader.next(),
        }
    }
}

struct Follower {
    reader: Reader,
    view: watch::Receiver<View>,
    follow: bool,
}

/// The bytes of a log; `directory` is the VM's.
pub(super) fn stream(
    directory: &Path,
    query: LogQuery,
    view: watch::Receiver<View>,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, ApiError> {
    let reader = if query.console {
        Reader::Console(ConsoleReader::open(directory, query.tail))
    } else {
        let reader = MainLogReader::open(directory, query.tail).map_err(|error| {
            ApiError::new(
                ErrorKind::Internal,
                format!("cannot read the log in {}: {error}", directory.display()),
            )
        })?;
        Reader::Main(reader)
    };
    let follower = Follower {
        reader,
        view,
        follow: query.follow,
    };
    Ok(stream::unfold(Some(follower), |follower| async {
        let mut follower = follower?;
        loop {
            // Looked at before the log: what was written until then is read below.
            let over = !follower.follow || is_over(&follower.view);
            match follower.reader.next() {
                Ok(Some(bytes)) => return Some((Ok(bytes), Some(follower))),
                Ok(None) if over => return None,
                Ok(None) => {}
                Err(error) => return Some((Err(error), None)),
            }
            tokio::select! {
                () = sleep(POLL) => {}
                // The end is told at once; a watcher that is gone is an end, too.
                changed = follower.view.changed() => if changed.is_err() {
                    follower.follow = false;
                }
            }
        }
    }))
}

/// The VM has ended, so nothing more comes.
fn is_over(view: &watch::Receiver<View>) -> bool {
    let view = view.borrow();
    view.gone || !view.state.holds_machine()
}
