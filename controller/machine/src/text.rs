//! One-line forms for logs and test output.

use std::fmt;

use dugong_topology::InstanceId;

use crate::action::{Declaration, Guard};
use crate::record::Record;
use crate::server::{Access, Goal, Names, Old, Receiver, Run, Sessions, Stop, Upstream, Work};

/// `g3 pg-1 > pg-2 > pg-3, deposed pg-4, began 2@0/100, primary lost`.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{} {}", self.generation, self.primary)?;
        match &self.sync {
            Some(sync) => write!(f, " > {sync}")?,
            None if self.one_node => f.write_str(" (one node)")?,
            None => f.write_str(" > nobody")?,
        }
        for id in &self.asyncs {
            write!(f, " > {id}")?;
        }
        for deposed in &self.deposed {
            write!(f, ", deposed {}", deposed.id)?;
        }
        write!(f, ", began {}, {}", self.began_at, self.reason.as_str())?;
        if let Some(frozen) = &self.frozen {
            write!(f, ", frozen by {}", frozen.by)?;
        }
        Ok(())
    }
}

impl fmt::Display for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.next)?;
        match &self.at {
            Some(at) => write!(f, "; at r{at}")?,
            None => f.write_str("; where there is none")?,
        }
        match &self.guard {
            Guard::None => Ok(()),
            Guard::AbsentOrStopped(id) => write!(f, ", if {id} is absent or stopped"),
            Guard::HandedOver { by, request } => {
                write!(f, ", if {by} hands over for request {request}")
            }
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(Stop::Immediate) => f.write_str("down, at once"),
            Self::Down(Stop::Fast) => f.write_str("down, in order"),
            Self::Initialised => f.write_str("initialised"),
            Self::Primary(goal) => {
                let access = match (goal.access, goal.sessions) {
                    (Access::ReadOnly, Sessions::Stay) => "closed",
                    (Access::ReadWrite, Sessions::Stay) => "open",
                    (Access::ReadOnly | Access::ReadWrite, Sessions::Leave) => "draining",
                };
                write!(f, "primary of g{}, {access}, ", goal.generation)?;
                write!(f, "commits wait for {}", goal.names)
            }
            Self::Standby(goal) => {
                write!(f, "standby in g{} of {}", goal.generation, source(goal.upstream.as_ref()))
            }
            Self::Sealed { generation } => write!(f, "sealed in g{generation}"),
            Self::Copied { source, generation, making, old } => {
                write!(f, "copied from {} in g{generation}, making {making}", source.id)?;
                match old {
                    Old::Untouched => Ok(()),
                    Old::GivenUp { primary } => write!(f, ", or made anew by {}", primary.id),
                }
            }
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not looked at yet"),
            Self::Down => f.write_str("down"),
            Self::Busy(Work::Initialising) => f.write_str("initialising"),
            Self::Busy(Work::Copying(making)) => f.write_str(making.way.as_str()),
            Self::Busy(Work::Starting) => f.write_str("starting"),
            Self::Busy(Work::Promoting) => f.write_str("promoting"),
            Self::Busy(Work::Stopping) => f.write_str("stopping"),
            Self::Standby(view) => {
                let receiver = match view.receiver {
                    Receiver::Streaming => "streaming",
                    Receiver::Stopped => "not streaming",
                    Receiver::Sealed => "sealed",
                };
                write!(f, "standby at {}, {receiver}", view.position())
            }
            Self::Primary(view) => write!(f, "primary at {}", view.position()),
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneNode => f.write_str("nobody, as the operator wanted it"),
            Self::Each(names) if names.is_empty() => f.write_str("nobody that exists"),
            Self::Each(names) => {
                f.write_str(&names.iter().map(InstanceId::as_str).collect::<Vec<_>>().join(" and "))
            }
        }
    }
}

fn source(upstream: Option<&Upstream>) -> String {
    upstream.map_or_else(|| "nobody".to_owned(), |upstream| upstream.id.to_string())
}

#[cfg(test)]
mod tests {
    use dugong_topology::{Generation, Lsn, Position, TimelineId};

    use super::*;
    use crate::record::{Deposed, Reason, SystemIdentifier};

    #[test]
    fn a_record_is_one_line() {
        let id = |name: &str| name.parse::<InstanceId>().unwrap();
        let record = Record {
            cluster: "main".to_owned(),
            system_identifier: SystemIdentifier(7),
            generation: Generation(3),
            primary: id("pg-1"),
            sync: Some(id("pg-2")),
            asyncs: vec![id("pg-3")],
            deposed: vec![Deposed { id: id("pg-4"), since: Generation(3) }],
            began_at: Position::new(TimelineId(2), Lsn(0x100)),
            timeline: TimelineId(2),
            frozen: None,
            one_node: false,
            reason: Reason::PrimaryLost,
        };
        assert_eq!(
            record.to_string(),
            "g3 pg-1 > pg-2 > pg-3, deposed pg-4, began 2@0/100, primary lost"
        );
    }
}
