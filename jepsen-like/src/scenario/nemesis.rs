//! [`Nemesis`]: which fault strikes what, and when.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::RunsOn;
use super::fault::{Budget, Fault, Side};
use super::target::Target;
use super::text::{CountRange, Rate, Time, TimeRange};

#[derive(Clone, Debug, PartialEq)]
pub struct Nemesis {
    pub when: When,
    pub fault: Fault,
    pub target: Target,
    /// How long it lasts before it is healed, drawn between these; for faults that end.
    pub lasts: Option<RangeInclusive<Duration>>,
    /// Direction of an asymmetric fault; drawn if it is not said.
    pub side: Option<Side>,
    pub budget: Budget,
    /// Never left out by a seed's swarm.
    pub always: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum When {
    At(Duration),
    /// Drawn: on average so many, spread over the time between.
    During {
        from: Duration,
        until: Duration,
        rate: Rate,
    },
    /// Once, when a node reaches a waypoint of the code.
    On {
        waypoint: String,
        /// Which time it is reached, drawn between these; counted from the moment of arming.
        nth: RangeInclusive<u32>,
        /// Armed in this time only; from the start to the end if it is not said.
        during: Option<RangeInclusive<Duration>>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NemesisTable {
    at: Option<Time>,
    during: Option<TimeRange>,
    rate: Option<Rate>,
    on: Option<Spanned<String>>,
    nth: Option<CountRange>,
    fault: Spanned<Fault>,
    target: Spanned<Target>,
    lasts: Option<Spanned<TimeRange>>,
    side: Option<Spanned<Side>>,
    #[serde(default)]
    budget: Budget,
    #[serde(default)]
    always: bool,
}

impl NemesisTable {
    pub fn is_beyond_budget(&self) -> bool {
        self.budget == Budget::Beyond
    }

    /// Where and why it makes no sense.
    pub fn unsound(&self, runs_on: &[RunsOn]) -> Option<(usize, String)> {
        let (fault, target) = (*self.fault.get_ref(), *self.target.get_ref());
        let name = fault.name();
        let at_fault = self.fault.span().start;
        let refuse = |at: usize, reason: String| Some((at, format!("{name}: {reason}")));
        match (&self.at, &self.during, &self.rate, &self.on) {
            (Some(_), None, None, None) | (None, None, None, Some(_)) => {}
            (None, Some(during), rate, on) if during.0.start() < during.0.end() && rate.is_some() != on.is_some() => {}
            _ => {
                let forms = "either `at`, or `during` (a time that passes) with `rate`, or `on` a waypoint, where `during` may say when";
                return refuse(at_fault, forms.to_owned());
            }
        }
        match &self.on {
            Some(on) if !on.get_ref().bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') => {
                return refuse(on.span().start, format!("`{}` is no waypoint: small letters, digits and hyphens", on.get_ref()));
            }
            None if self.nth.is_some() => {
                return refuse(at_fault, "`nth` counts how often a waypoint is reached: with `on` only".to_owned());
            }
            None if target == Target::NodeThere => {
                return refuse(self.target.span().start, format!("only a waypoint has {target}: with `on` only"));
            }
            _ => {}
        }
        if let Some(reason) = target.unfit_for(fault) {
            return refuse(self.target.span().start, format!("cannot strike {target}: {reason}"));
        }
        if let (Some(lasts), false) = (&self.lasts, fault.ends()) {
            return refuse(lasts.span().start, "does not end by itself: no `lasts`".to_owned());
        }
        if let (Some(side), true) = (&self.side, fault != Fault::AsymmetricPartition) {
            return refuse(side.span().start, "has no `side`".to_owned());
        }
        if runs_on.contains(&RunsOn::Processes) {
            if !fault.strikes_processes() {
                return refuse(at_fault, "real processes cannot receive it".to_owned());
            }
            if let Some(on) = &self.on {
                return refuse(on.span().start, "real processes do not stop at waypoints".to_owned());
            }
            if matches!(target, Target::RootLeader | Target::PartitionLeader) {
                return refuse(self.target.span().start, format!("who is {target} cannot be seen from outside real processes"));
            }
        }
        None
    }
}

impl From<NemesisTable> for Nemesis {
    fn from(table: NemesisTable) -> Nemesis {
        let during = table.during.map(|during| during.0);
        let when = match (table.on, during, table.rate) {
            (Some(on), during, _) => When::On { waypoint: on.into_inner(), nth: table.nth.map_or(1..=1, |nth| nth.0), during },
            (None, Some(during), Some(rate)) => When::During { from: *during.start(), until: *during.end(), rate },
            (None, ..) => When::At(table.at.map_or(Duration::ZERO, |at| at.0)),
        };
        Nemesis {
            when,
            fault: table.fault.into_inner(),
            target: table.target.into_inner(),
            lasts: table.lasts.map(|lasts| lasts.into_inner().0),
            side: table.side.map(Spanned::into_inner),
            budget: table.budget,
            always: table.always,
        }
    }
}
