//! What to do next: the goal compared with what is there. Pure.

use dugong_machine::{Data, Goal, Stop};

use super::data_dir::StartsAs;

/// What is known of the server process without asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// For certain there is none.
    Down,
    /// On its way down, by our word.
    Stopping,
    /// It runs; how it was started, or what it has become since.
    Up(StartsAs),
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, while there is no process.
    Rest,
    /// Nothing either, for a reason that people should know.
    Refuse(String),
    Initialise,
    Copy,
    Start,
    Stop(Stop),
    /// Look at the running server, and adjust what can be adjusted while it runs.
    Serve,
}

/// The one step that brings the server nearer to its goal.
pub(super) fn next_step(goal: Option<&Goal>, data: &Data, process: Process) -> Step {
    let Some(goal) = goal else {
        return if process == Process::Down { Step::Rest } else { Step::Serve };
    };
    match process {
        Process::Down => from_rest(goal, data),
        // A shutdown cannot be taken back; only hurried.
        Process::Stopping => match goal {
            Goal::Down(Stop::Immediate) => Step::Stop(Stop::Immediate),
            Goal::Down(Stop::Fast)
            | Goal::Initialised
            | Goal::Primary(_)
            | Goal::Standby(_)
            | Goal::Sealed { .. }
            | Goal::Copied { .. } => Step::Stop(Stop::Fast),
        },
        Process::Up(role) => while_running(goal, role),
    }
}

fn from_rest(goal: &Goal, data: &Data) -> Step {
    let has_data = |step| match data {
        Data::Own(_) => step,
        Data::Unknown => Step::Rest,
        Data::Empty => Step::Refuse("there is no data to start a server on".to_owned()),
        Data::Foreign { why } => Step::Refuse(why.clone()),
    };
    match goal {
        Goal::Down(_) => Step::Rest,
        Goal::Initialised => match data {
            Data::Empty => Step::Initialise,
            Data::Foreign { why } => Step::Refuse(why.clone()),
            Data::Own(_) | Data::Unknown => Step::Rest,
        },
        Goal::Primary(_) | Goal::Standby(_) | Goal::Sealed { .. } => has_data(Step::Start),
        Goal::Copied { making, .. } => match data {
            Data::Own(identity) if identity.making == *making => Step::Rest,
            Data::Own(_) | Data::Empty => Step::Copy,
            Data::Foreign { why } => Step::Refuse(why.clone()),
            Data::Unknown => Step::Rest,
        },
    }
}

fn while_running(goal: &Goal, role: StartsAs) -> Step {
    match goal {
        Goal::Down(stop) => Step::Stop(*stop),
        Goal::Primary(_) => Step::Serve,
        Goal::Standby(_) | Goal::Sealed { .. } => match role {
            StartsAs::Standby => Step::Serve,
            // R9: a demotion kills, it does not release what waits.
            StartsAs::Primary => Step::Stop(Stop::Immediate),
        },
        Goal::Initialised | Goal::Copied { .. } => match role {
            StartsAs::Standby => Step::Stop(Stop::Fast),
            StartsAs::Primary => Step::Stop(Stop::Immediate),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dugong_machine::{
        Access, Identity, Names, Old, PrimaryGoal, Sessions, StandbyGoal, SystemIdentifier,
        Upstream,
    };
    use dugong_topology::{Address, Generation, Lsn, Position, TimelineId};

    use super::*;

    fn own(making: u32) -> Data {
        Data::Own(Identity {
            instance: "pg-1".parse().unwrap(),
            cluster: "main".to_owned(),
            system_identifier: SystemIdentifier(7),
            generation: Generation(1),
            making,
            made_in: Generation(0),
            made_at: Position::new(TimelineId(1), Lsn(1)),
        })
    }

    fn copied() -> Goal {
        let source = Upstream { id: "pg-2".parse().unwrap(), address: Address::loopback(5432) };
        Goal::Copied { source, generation: Generation(2), making: 2, old: Old::Untouched }
    }

    fn primary() -> Goal {
        Goal::Primary(PrimaryGoal {
            generation: Generation(1),
            timeline: TimelineId(1),
            names: Names::Each(Vec::new()),
            access: Access::ReadOnly,
            sessions: Sessions::Stay,
            checkpoint: None,
            downstreams: BTreeSet::new(),
            life: 0,
        })
    }

    fn standby() -> Goal {
        Goal::Standby(StandbyGoal {
            generation: Generation(1),
            upstream: None,
            heir: false,
            downstreams: BTreeSet::new(),
        })
    }

    #[test]
    fn each_situation_has_one_next_step() {
        use Process::{Down, Stopping, Up};
        use StartsAs::{Primary, Standby};
        use Stop::{Fast, Immediate};
        let foreign = Data::Foreign { why: "pg-9's".to_owned() };
        let refused = Step::Refuse("pg-9's".to_owned());
        #[rustfmt::skip]
        let cases = [
            // what is so                          goal                    data              process      step
            ("nobody has said anything",           None,                   own(1),           Down,        Step::Rest),
            ("initialise nothing",                 Some(Goal::Initialised), Data::Empty,     Down,        Step::Initialise),
            ("initialised already",                Some(Goal::Initialised), own(1),          Down,        Step::Rest),
            ("never over foreign data",            Some(Goal::Initialised), foreign.clone(), Down,        refused.clone()),
            ("nor by a copy",                      Some(copied()),         foreign.clone(),  Down,        refused.clone()),
            ("not looked at yet",                  Some(copied()),         Data::Unknown,    Down,        Step::Rest),
            ("a copy over older data",             Some(copied()),         own(1),           Down,        Step::Copy),
            ("the copy is there",                  Some(copied()),         own(2),           Down,        Step::Rest),
            ("a copy stops a standby first",       Some(copied()),         own(1),           Up(Standby), Step::Stop(Fast)),
            ("and kills a primary",                Some(copied()),         own(1),           Up(Primary), Step::Stop(Immediate)),
            ("a standby is promoted in place",     Some(primary()),        own(1),           Up(Standby), Step::Serve),
            ("a primary is demoted by force",      Some(standby()),        own(1),           Up(Primary), Step::Stop(Immediate)),
            ("a stop goes on to its end",          Some(primary()),        own(1),           Stopping,    Step::Stop(Fast)),
            ("or is hurried",                      Some(Goal::Down(Immediate)), own(1),      Stopping,    Step::Stop(Immediate)),
            ("started from rest",                  Some(standby()),        own(1),           Down,        Step::Start),
        ];
        for (what, goal, data, process, expected) in cases {
            assert_eq!(next_step(goal.as_ref(), &data, process), expected, "{what}");
        }
    }
}
