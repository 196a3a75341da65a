//! The events of one service, as server-sent events.
//!
//! A watcher first gets the [`opening`](Feed::opening): each instance as `up`, the leader as
//! `leader`, then `current`. From then on it gets the changes: `down`, `up` and `update` for
//! instances, `leader` when another one leads or nobody does (its instance is null then).
//! What changed at the same time arrives in one piece.
//!
//! Source: Flynn's discoverd, the kinds of its events; WHATWG HTML, "Server-sent events".

use bytes::Bytes;
use dugong_topology::Version;

use super::document::Told;
use super::{Instance, ServiceState};

/// What a watcher wants to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// Instances and the leader.
    Everything,
    Leader,
}

/// The encoded events of one state of a service.
#[derive(Debug, Default)]
pub(super) struct Feed {
    openings: [Bytes; 2],
    changes: [Bytes; 2],
    /// The version of the state that `changes` lead on from.
    follows: Option<Version>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Up,
    Update,
    Down,
    Leader,
    Current,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Update => "update",
            Self::Down => "down",
            Self::Leader => "leader",
            Self::Current => "current",
        }
    }
}

impl Feed {
    /// The feed of `state`, which follows `before`.
    pub(super) fn new(
        state: &ServiceState,
        before: Option<&ServiceState>,
    ) -> Result<Self, serde_json::Error> {
        let (everything, leader) = (Interest::Everything, Interest::Leader);
        Ok(Self {
            openings: [opening(state, everything)?, opening(state, leader)?],
            changes: [changes(before, state, everything)?, changes(before, state, leader)?],
            follows: before.map(|before| before.since),
        })
    }

    /// What a new watcher gets.
    pub(super) fn opening(&self, interest: Interest) -> Bytes {
        self.openings[interest as usize].clone()
    }
}

impl ServiceState {
    /// What leads a watcher from `seen` to here. Empty: nothing that it wants to hear of.
    pub(super) fn changes_since(
        &self,
        seen: &Self,
        interest: Interest,
    ) -> Result<Bytes, serde_json::Error> {
        if self.feed.follows == Some(seen.since) {
            return Ok(self.feed.changes[interest as usize].clone());
        }
        // It was too slow for a state in between.
        changes(Some(seen), self, interest)
    }
}

fn opening(state: &ServiceState, interest: Interest) -> Result<Bytes, serde_json::Error> {
    let mut events = Events::of(state);
    if interest == Interest::Everything {
        for instance in &state.instances {
            events.tell(Kind::Up, Some(instance))?;
        }
    }
    if state.leader.is_some() {
        events.tell(Kind::Leader, state.leader.as_ref())?;
    }
    events.mark(Kind::Current)?;
    Ok(Bytes::from(events.text))
}

fn changes(
    before: Option<&ServiceState>,
    state: &ServiceState,
    interest: Interest,
) -> Result<Bytes, serde_json::Error> {
    let Some(before) = before else { return Ok(Bytes::new()) };
    let mut events = Events::of(state);
    if interest == Interest::Everything {
        let has = |all: &[Instance], one: &Instance| all.iter().any(|other| other.id == one.id);
        for gone in before.instances.iter().filter(|old| !has(&state.instances, old)) {
            events.tell(Kind::Down, Some(gone))?;
        }
        for instance in state.instances.iter().filter(|new| !before.instances.contains(new)) {
            let known = has(&before.instances, instance);
            events.tell(if known { Kind::Update } else { Kind::Up }, Some(instance))?;
        }
    }
    let id = |state: &ServiceState| state.leader.as_ref().map(|leader| leader.id.clone());
    if id(before) != id(state) {
        events.tell(Kind::Leader, state.leader.as_ref())?;
    }
    Ok(Bytes::from(events.text))
}

struct Events<'a> {
    state: &'a ServiceState,
    text: String,
}

impl<'a> Events<'a> {
    fn of(state: &'a ServiceState) -> Self {
        Self { state, text: String::new() }
    }

    fn tell(&mut self, kind: Kind, instance: Option<&Instance>) -> Result<(), serde_json::Error> {
        let (service, kind) = (self.state.service.name(), kind.name());
        self.add(kind, &Told::Instance { service, kind, instance })
    }

    fn mark(&mut self, kind: Kind) -> Result<(), serde_json::Error> {
        let (service, kind) = (self.state.service.name(), kind.name());
        self.add(kind, &Told::Mark { service, kind })
    }

    fn add(&mut self, kind: &str, told: &Told<'_>) -> Result<(), serde_json::Error> {
        let Version { generation, revision } = self.state.since;
        let data = serde_json::to_string(told)?;
        self.text += &format!("event: {kind}\nid: {generation}.{revision}\ndata: {data}\n\n");
        Ok(())
    }
}
