//! Who waits for a VM to start.

use banger_protocol::error::ApiError;
use futures_util::future::join_all;

use super::progress::Progress;
use super::worker::Reply;
use crate::operation::Context;

/// Operations that wait for one start; it is given up once all of them are.
#[derive(Default)]
pub(super) struct Waiters {
    pub(super) progress: Progress,
    waiting: Vec<(Context, Reply<()>)>,
    /// Nobody asked for it: a guest that rebooted is started for its own sake.
    own_sake: bool,
}

impl Waiters {
    pub(super) fn one(context: Context, reply: Reply<()>) -> Self {
        let mut waiters = Waiters::default();
        waiters.add(context, reply);
        waiters
    }

    pub(super) fn none() -> Self {
        Waiters {
            own_sake: true,
            ..Waiters::default()
        }
    }

    pub(super) fn add(&mut self, context: Context, reply: Reply<()>) {
        self.progress.add(context.clone());
        self.waiting.push((context, reply));
    }

    /// Resolves when every one of them is cancelled, and then never again.
    pub(super) async fn all_cancelled(&mut self) {
        if self.own_sake {
            return std::future::pending().await;
        }
        join_all(self.waiting.iter().map(|(context, _)| context.cancelled())).await;
        self.own_sake = true;
    }

    pub(super) fn answer(self, outcome: Result<(), ApiError>) {
        for (_, reply) in self.waiting {
            let _ = reply.send(outcome.clone());
        }
    }
}
