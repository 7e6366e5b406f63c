//! Which state of a VM may follow which.
//!
//! ```text
//!  created ──start──► starting ──ready──► running ──stop──► stopping ──ended──► stopped
//!     │                 │ │ ▲              │ ▲ │ └────────ended───────────────────▲
//!     │       cancelled │ │ └───reboot─────┤ │ └─silent─► unresponsive            │
//!     │    (to stopped) ▼ ▼                │ └──answered──┘  (stop, ended, died,  │
//!     │                failed ◄────died────┘                  reboot as running)  │
//!     └──delete─► deleting ◄─────────────────delete───────────────────────────────┘
//! ```
//!
//! A table and nothing else: who asks, what is done on the way, and what is told to whom is the
//! worker's business.

use banger_protocol::api::vm::VmState;

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Created,
    Starting,
    Running,
    Unresponsive,
    Stopping,
    Stopped,
    Failed,
    Deleting,
}

/// What happened, or is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The start recipe begins.
    Start,
    /// The agent is ready.
    Ready,
    /// A line of the start recipe failed.
    StartFailed,
    /// Whoever wanted it started does not any more.
    StartCancelled,
    /// The agent has not answered for too long.
    Silent,
    /// It answers again.
    Answered,
    /// The stop recipe begins.
    Stop,
    /// The machine ended, as it should.
    Ended,
    /// The machine ended by itself, and nobody asked for it.
    Died,
    /// The guest rebooted: the machine ended and is started again.
    Rebooted,
    /// The VM is being removed.
    Delete,
    /// It could not be removed.
    DeleteFailed,
}

impl State {
    pub const ALL: [State; 8] = [
        State::Created,
        State::Starting,
        State::Running,
        State::Unresponsive,
        State::Stopping,
        State::Stopped,
        State::Failed,
        State::Deleting,
    ];

    /// The state after `event`; `None` where it cannot happen.
    pub fn next(self, event: Event) -> Option<State> {
        use Event as E;
        use State as S;
        Some(match (self, event) {
            (S::Created | S::Stopped | S::Failed, E::Start) => S::Starting,
            (S::Starting, E::Ready) => S::Running,
            (S::Starting, E::StartFailed) => S::Failed,
            (S::Starting, E::StartCancelled) => S::Stopped,
            (S::Running, E::Silent) => S::Unresponsive,
            (S::Unresponsive, E::Answered) => S::Running,
            (S::Running | S::Unresponsive, E::Stop) => S::Stopping,
            (S::Running | S::Unresponsive | S::Stopping, E::Ended) => S::Stopped,
            (S::Running | S::Unresponsive | S::Stopping, E::Died) => S::Failed,
            (S::Running | S::Unresponsive, E::Rebooted) => S::Starting,
            (S::Created | S::Stopped | S::Failed, E::Delete) => S::Deleting,
            (S::Deleting, E::DeleteFailed) => S::Failed,
            _ => return None,
        })
    }

    /// Whether a machine may exist.
    pub fn holds_machine(self) -> bool {
        matches!(
            self,
            State::Starting | State::Running | State::Unresponsive | State::Stopping
        )
    }

    /// The name in the store and in logs.
    pub fn name(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Starting => "starting",
            State::Running => "running",
            State::Unresponsive => "unresponsive",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Failed => "failed",
            State::Deleting => "deleting",
        }
    }

    pub fn from_name(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl From<State> for VmState {
    fn from(state: State) -> VmState {
        match state {
            State::Created => VmState::Created,
            State::Starting => VmState::Starting,
            State::Running => VmState::Running,
            State::Unresponsive => VmState::Unresponsive,
            State::Stopping => VmState::Stopping,
            State::Stopped => VmState::Stopped,
            State::Failed => VmState::Failed,
            State::Deleting => VmState::Deleting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const EVENTS: [Event; 12] = [
        Event::Start,
        Event::Ready,
        Event::StartFailed,
        Event::StartCancelled,
        Event::Silent,
        Event::Answered,
        Event::Stop,
        Event::Ended,
        Event::Died,
        Event::Rebooted,
        Event::Delete,
        Event::DeleteFailed,
    ];

    /// Rows of the page's table, as `from event to`.
    fn documented() -> Vec<String> {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lifecycle.md");
        let text = std::fs::read_to_string(page).unwrap();
        text.lines()
            .skip_while(|line| !line.starts_with("| from | event | to |"))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                let cells = line.split('`').skip(1).step_by(2);
                cells.collect::<Vec<_>>().join(" ")
            })
            .collect()
    }

    #[test]
    fn the_table_is_the_one_of_the_page() {
        let mut table = Vec::new();
        for state in State::ALL {
            for event in EVENTS {
                if let Some(next) = state.next(event) {
                    table.push(format!("{} {event:?} {}", state.name(), next.name()));
                }
            }
        }
        assert_eq!(table, documented(), "see docs/lifecycle.md");
    }

    #[test]
    fn names_round_trip_and_are_those_of_the_api() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.name()), Some(state));
            let api = serde_json::to_value(VmState::from(state)).unwrap();
            assert_eq!(api, state.name());
        }
        assert_eq!(State::from_name("gone"), None);
    }

    #[test]
    fn from_every_state_a_vm_can_be_deleted_and_started() {
        for goal in [State::Deleting, State::Running] {
            for start in State::ALL {
                let mut seen = HashSet::from([start]);
                let mut frontier = vec![start];
                while let Some(state) = frontier.pop() {
                    let next = EVENTS.into_iter().filter_map(|event| state.next(event));
                    frontier.extend(next.filter(|next| seen.insert(*next)));
                }
                assert!(seen.contains(&goal), "{start:?} cannot reach {goal:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_history_keeps_the_rules(events in prop::collection::vec(0..EVENTS.len(), 0..64)) {
            let mut state = State::Created;
            let mut machine = false;
            for event in events.into_iter().map(|index| EVENTS[index]) {
                let Some(next) = state.next(event) else { continue };
                // Only a start makes a machine possible, and only an end makes it impossible.
                match event {
                    Event::Start | Event::Rebooted => machine = true,
                    Event::StartFailed | Event::StartCancelled | Event::Ended | Event::Died => machine = false,
                    _ => {}
                }
                prop_assert_eq!(next.holds_machine(), machine);
                // Nothing is running but what said so.
                if next == State::Running {
                    prop_assert!(matches!(event, Event::Ready | Event::Answered));
                }
                // Nothing becomes `created` again, and a machine is never deleted from under a guest.
                prop_assert!(next != State::Created);
                if next == State::Deleting {
                    prop_assert!(!state.holds_machine());
                }
                state = next;
            }
        }
    }
}
