//! `dugong rotate-credentials`: other passwords, while everybody goes on.
//!
//! The command leads all instances through the steps of `credentials/exchange`, each of them through
//! one before any through the next. What it knows it has from the instances, so whoever says it once
//! more goes on where it ended, on whatever machine.
//!
//! **Invariant:** the former passwords end only after every instance was seen to let the new ones in
//! and to use them.

mod beginning;
mod place;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use dugong_topology::{Role, Topology};

use self::beginning::{Beginning, beginning};
use self::place::{AGAIN, Expected, PATIENCE, Place, Refused, Use, runtime};
use super::caller::Caller;
use super::reach::ReachOptions;
use crate::credentials::{ExchangeId, Kind, Login, Logins, Password};
use crate::publish::credentials::{Instruction, Standing, Step};
use crate::run::Failure;

/// What `dugong rotate-credentials` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
New passwords are made here, and handed to every instance by its controller, which keeps them in its
credentials.json (mode 0600): over TLS, or on this machine, and in no other way. Replication and
lookup have two roles each that take turns (dugong_replication, dugong_replication_b): the next one
is made on the primary; once every instance lets it in, one standby after the other connects by it;
once all do, the former one is let in no more. No client notices.

The superuser and the application keep their role: the former password is let in until the last
step. Sessions go on; whoever logs in later needs the new one, which is in credentials.json, and for
`dugong up` in `dugong dsn`.

Every instance must be there. Whatever dies meanwhile, say it once more: it goes on where it ended.
Until the last step nothing is taken away, and the former passwords are as good as ever.

Who uses these logins beside Dugong (a pooler that looks passwords up, a backup by replication) has
to be told: --keep-former stops before the last step, until you say it once more without it.

Examples:
  dugong rotate-credentials                     replication and lookup
  dugong rotate-credentials --keep-former       the same, and the former ones go on for now
  dugong rotate-credentials --all-roles         all four passwords")]
pub struct Options {
    #[command(flatten)]
    pub reach: ReachOptions,
    /// That of the superuser.
    #[arg(long)]
    pub superuser: bool,
    /// That of the standbys' connections.
    #[arg(long)]
    pub replication: bool,
    /// That of whoever looks passwords up.
    #[arg(long)]
    pub lookup: bool,
    /// That of the ready-made role for applications.
    #[arg(long)]
    pub application: bool,
    /// All of them [default: replication and lookup].
    #[arg(long, conflicts_with_all = ["superuser", "replication", "lookup", "application"])]
    pub all_roles: bool,
    /// Stop before the former ones are let in no more.
    #[arg(long)]
    pub keep_former: bool,
}

const NOTHING_TAKEN: &str = "nothing was taken away: the former passwords are let in as before. Say \
     `dugong rotate-credentials` once more when that is mended";

/// Exchanges passwords, and tells through `print` how far it is.
///
/// # Errors
///
/// What is in the way, and what to do about it.
pub async fn rotate(options: &Options, mut print: impl FnMut(&str)) -> Result<(), Failure> {
    let mut exchanging = Exchanging::begin(options, &mut print).await?;
    let before = |why: String| runtime(format!("{why}; {NOTHING_TAKEN}"));
    exchanging.hand_over().await.map_err(before)?;
    exchanging.take_into_use().await.map_err(before)?;
    if options.keep_former {
        exchanging.say(
            "stopped, as asked: the new ones are used, and the former ones are let in, too; say it \
             once more without --keep-former to end them",
        );
        return Ok(());
    }
    exchanging.end_former().await
}

/// An exchange under way.
struct Exchanging<'a, P> {
    options: &'a Options,
    caller: Caller,
    /// The tail of the chain first, the primary last.
    places: Arc<[Place]>,
    id: ExchangeId,
    next: Logins,
    /// The role of replication that has had its turn then.
    former_role: Option<String>,
    /// Where another one was begun at the same time.
    standings: Vec<Standing>,
    begun: Instant,
    print: &'a mut P,
}

impl<'a, P: FnMut(&str)> Exchanging<'a, P> {
    async fn begin(options: &'a Options, print: &'a mut P) -> Result<Self, Failure> {
        let caller = Caller::of(&options.reach)?;
        let topology = caller.topology().await?;
        let unchanged = |why: String| runtime(format!("{why}; {NOTHING_TAKEN}"));
        let places = everybody(&caller, &topology).map_err(unchanged)?;
        let mut standings = Vec::new();
        for place in &places {
            let standing = place.standing().await.map_err(|refused| {
                unchanged(format!("{} cannot be asked: {}", place.id, refused.words()))
            })?;
            standings.push(standing);
        }
        let (id, next, words) = match beginning(&standings).map_err(runtime)? {
            Beginning::Fresh => {
                let Some(primary) = standings.last() else {
                    return Err(runtime("nobody is there"));
                };
                let next = fresh(&kinds(options), primary)?;
                let id = ExchangeId::fresh().map_err(Failure::runtime)?;
                let words = format!("new passwords for {} (exchange {id})", listed(&next));
                (id, next, words)
            }
            Beginning::Resume { id, holder } => {
                let place = places.iter().find(|place| place.id == holder);
                let place = place.ok_or_else(|| runtime(format!("{holder} is not there")))?;
                let underway = place.underway().await.map_err(|it| unchanged(it.words()))?;
                let next = underway.next;
                let words = format!("going on with the exchange {id}, for {}", listed(&next));
                (id, next, words)
            }
        };
        let former_role =
            next.get(&Kind::Replication).map(|login| Kind::Replication.next_role(&login.name));
        let begun = Instant::now();
        let mut exchanging = Self {
            options,
            caller,
            places: places.into(),
            id,
            next,
            former_role,
            standings,
            begun,
            print,
        };
        exchanging.say(&words);
        let left: Vec<_> =
            kinds(options).into_iter().filter(|it| !exchanging.next.contains_key(it)).collect();
        if asked_for(options) && !left.is_empty() {
            let left: Vec<_> = left.iter().map(ToString::to_string).collect();
            exchanging.say(&format!("it is not about {}: say that afterwards", left.join(", ")));
        }
        Ok(exchanging)
    }

    /// Everybody has the new ones, and lets them in.
    async fn hand_over(&mut self) -> Result<(), String> {
        let places = Arc::clone(&self.places);
        for (place, standing) in places.iter().zip(std::mem::take(&mut self.standings)) {
            let instead_of = standing.exchange.map(|(id, _)| id).filter(|id| *id != self.id);
            let step = Step::Learn { next: self.next.clone(), instead_of };
            place.insist(&self.instruction(step)).await?;
            self.say(&format!("{} has them", place.id));
        }
        self.at_the_primary(|| Step::Make).await?;
        self.say("the primary has made their roles");
        for place in places.iter() {
            self.until(place, &self.turns(), Use::Allowed).await?;
            self.say(&format!("{} lets them in", place.id));
        }
        Ok(())
    }

    /// Everybody uses them, one after the other.
    async fn take_into_use(&mut self) -> Result<(), String> {
        for place in Arc::clone(&self.places).iter() {
            place.insist(&self.instruction(Step::Use)).await?;
            self.until(place, &self.turns(), Use::Own).await?;
            self.say(&format!("{} uses them", place.id));
        }
        Ok(())
    }

    /// Nobody uses the former ones: they end.
    async fn end_former(mut self) -> Result<(), Failure> {
        let before = |why: String| runtime(format!("{why}; {NOTHING_TAKEN}"));
        // The superuser's password is another one by now.
        self.caller = Caller::of(&self.options.reach)?;
        let topology = self.caller.topology().await?;
        let places = everybody(&self.caller, &topology).map_err(before)?;
        let joined = places.iter().find(|new| self.places.iter().all(|old| old.id != new.id));
        if let Some(joined) = joined {
            return Err(before(format!("{} has joined meanwhile", joined.id)));
        }
        self.places = places.into();
        for place in Arc::clone(&self.places).iter() {
            self.until(place, &self.turns(), Use::All).await.map_err(before)?;
        }
        self.say("every instance uses them: the former ones end");

        let after = |why: String| {
            runtime(format!(
                "{why}; every instance uses the new passwords, and the former ones may be let in no \
                 more. Say `dugong rotate-credentials` once more when that is mended"
            ))
        };
        self.at_the_primary(|| Step::End).await.map_err(after)?;
        let all: BTreeSet<_> = self.next.keys().copied().collect();
        let places = Arc::clone(&self.places);
        for place in places.iter() {
            self.until(place, &all, Use::All).await.map_err(after)?;
        }
        for place in places.iter() {
            place.insist(&self.instruction(Step::Finish)).await.map_err(after)?;
        }
        let words =
            format!("done: {} in use, the former passwords are refused", listed(&self.next));
        self.say(&words);
        Ok(())
    }

    /// Waits until the server of `place` lets those `kinds` in, and they are used as far as said.
    async fn until(
        &mut self,
        place: &Place,
        kinds: &BTreeSet<Kind>,
        used: Use,
    ) -> Result<(), String> {
        let expected = Expected {
            next: &self.next,
            former_role: self.former_role.as_deref(),
            kinds,
            used,
            instances: &self.places,
        };
        let (begun, print) = (self.begun, &mut *self.print);
        place.until(&expected, &mut |words| print(&timed(begun, words))).await
    }

    /// Those of whom a second role can be tried before the first one ends.
    fn turns(&self) -> BTreeSet<Kind> {
        self.next.keys().copied().filter(|kind| kind.takes_turns()).collect()
    }

    /// Has the primary take a step, whoever that is by now.
    async fn at_the_primary(&mut self, step: impl Fn() -> Step) -> Result<(), String> {
        let begun = Instant::now();
        let mut told = String::new();
        loop {
            let why = match self.primary().await {
                Ok(primary) => match primary.tell(&self.instruction(step())).await {
                    Ok(_) => return Ok(()),
                    Err(Refused::ForGood(why)) => return Err(format!("{}: {why}", primary.id)),
                    Err(Refused::ForNow(why) | Refused::NotHere(why)) => {
                        format!("{}: {why}", primary.id)
                    }
                },
                Err(why) => why,
            };
            if begun.elapsed() > PATIENCE {
                return Err(why);
            }
            if begun.elapsed() > AGAIN * 5 && why != told {
                self.say(&format!("waiting for the primary: {why}"));
                told = why;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn primary(&self) -> Result<&Place, String> {
        let topology = self.caller.topology().await.map_err(|error| error.to_string())?;
        let Some(primary) = &topology.primary else {
            return Err("the cluster has no primary yet".to_owned());
        };
        let found = self.places.iter().find(|place| place.id == primary.id);
        found.ok_or_else(|| format!("{} has joined meanwhile", primary.id))
    }

    fn instruction(&self, step: Step) -> Instruction {
        Instruction { by: self.caller.by(), id: self.id.clone(), step }
    }

    fn say(&mut self, words: &str) {
        (self.print)(&timed(self.begun, words));
    }
}

fn timed(begun: Instant, words: &str) -> String {
    format!("{:6.1} s  {words}", begun.elapsed().as_secs_f64())
}

/// Every instance, the primary last.
fn everybody(caller: &Caller, topology: &Topology) -> Result<Vec<Place>, String> {
    let mut members: Vec<_> = topology.members().collect();
    members.reverse();
    members.sort_by_key(|(role, _)| *role == Some(Role::Primary));
    if topology.primary.is_none() {
        return Err("the cluster has no primary yet".to_owned());
    }
    let place = |(_, member): (Option<Role>, &dugong_topology::Member)| {
        let controller = caller.controller_of(member).map_err(|failure| failure.to_string())?;
        Ok(Place { id: member.id.clone(), controller })
    };
    members.into_iter().map(place).collect()
}

fn asked_for(options: &Options) -> bool {
    let Options { superuser, replication, lookup, application, all_roles, .. } = options;
    *superuser || *replication || *lookup || *application || *all_roles
}

/// Whose passwords are exchanged.
fn kinds(options: &Options) -> BTreeSet<Kind> {
    if !asked_for(options) {
        return [Kind::Replication, Kind::Lookup].into();
    }
    let chosen = [
        (Kind::Superuser, options.superuser),
        (Kind::Replication, options.replication),
        (Kind::Lookup, options.lookup),
        (Kind::Application, options.application),
    ];
    let chosen = chosen.into_iter().filter(|(_, chosen)| *chosen || options.all_roles);
    chosen.map(|(kind, _)| kind).collect()
}

fn fresh(kinds: &BTreeSet<Kind>, primary: &Standing) -> Result<Logins, Failure> {
    let login = |kind: &Kind| {
        let role = primary.roles.get(kind);
        let role = role.ok_or_else(|| runtime(format!("the {kind} role is not known")))?;
        let password = Password::fresh().map_err(Failure::runtime)?;
        Ok((*kind, Login { name: kind.next_role(role), password }))
    };
    kinds.iter().map(login).collect()
}

fn listed(logins: &Logins) -> String {
    let words = logins.iter().map(|(kind, login)| format!("{kind} ({})", login.name));
    words.collect::<Vec<_>>().join(", ")
}
