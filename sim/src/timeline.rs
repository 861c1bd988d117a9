//! What nodes, drives, groups, volumes, faults and clients did over time: what a report draws.
//!
//! Invariant: a run goes the same way whether it is watched or not. The same timer ticks in both; only when asked does
//! it look, and looking waits for nothing and draws nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jepsen_like::history::History;
use runtime::side;
use runtime::task::{self, Task};
use runtime::time::{self, Instant};
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::nemesis::{Deed, Stage};
use crate::plan::{Aim, Plan, Planned, Shape};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Volumes change less often, and are more to look at.
const LOOKS_PER_VOLUMES: u64 = 10;
/// Events of machines, drives, links and clocks that are kept.
const MARKS_MAX: usize = 5_000;

/// All of it. Times are microseconds since the clients began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Timeline {
    pub scenario: String,
    pub seed: u64,
    pub claim: String,
    pub until_us: u64,
    pub lanes: Vec<Lane>,
    pub faults: Vec<Bar>,
    /// What the nemesis really did.
    pub deeds: Vec<Done>,
    /// What the simulator did to machines, drives, links and clocks: time, kind, what.
    pub marks: Vec<(u64, String, String)>,
    /// As the history has them.
    pub operations: Vec<serde_json::Value>,
    /// As they are told: check and text.
    pub violations: Vec<String>,
}

/// What one thing was over time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lane {
    pub kind: Kind,
    pub name: String,
    /// What it is part of: the zone of a node, the node of a drive.
    pub of: String,
    /// From, until, state; without gaps.
    pub spans: Vec<(u64, u64, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Node,
    Drive,
    /// Which node leads, in which term.
    Group,
    /// How many volumes have all slots within reach, how many lack some, how many cannot be read.
    Volumes,
}

/// Something that the nemesis did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    pub at_us: u64,
    /// Index into [`Timeline::faults`].
    pub fault: usize,
    pub stage: Stage,
    pub what: String,
}

/// A fault of the plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bar {
    pub from_us: u64,
    pub until_us: u64,
    pub fault: String,
    /// As people read it.
    pub text: String,
    /// Names of the lanes that it strikes, as far as the plan knows.
    pub lanes: Vec<String>,
}

/// Watches a run, or does not; cheap to clone.
#[derive(Clone)]
pub struct Watch(Option<Arc<Mutex<Watching>>>);

#[derive(Default)]
struct Watching {
    timeline: Timeline,
    /// Index into `timeline.lanes`.
    lanes: BTreeMap<String, usize>,
    paused: BTreeSet<String>,
    /// Simulated nanoseconds at which clients began.
    began_ns: u64,
}

impl Watch {
    /// Nothing is kept.
    pub fn off() -> Watch {
        Watch(None)
    }

    /// Everything is kept.
    pub fn on() -> Watch {
        Watch(Some(Arc::default()))
    }

    /// Clients begin now: watch `cluster` until the task is dropped.
    pub fn start(&self, cluster: Arc<Cluster>, shape: Shape) -> Task<()> {
        let (began, watching) = (time::now(), self.0.clone());
        if let Some(watching) = &watching {
            let seen = watching.clone();
            side::watch_events(Box::new(move |ns, kind, bytes| lock(&seen).mark(ns, kind, bytes)));
        }
        task::spawn(async move {
            for number in 0u64.. {
                if let Some(watching) = &watching {
                    look(&mut lock(watching), &cluster, &shape, began, number);
                }
                time::sleep(LOOK_EVERY).await;
            }
        })
    }

    /// What was planned, what the nemesis and the clients did.
    pub fn finish(&self, plan: &Plan, claim: &str, deeds: &[Deed], history: &History) {
        let Some(watching) = &self.0 else { return };
        let timeline = &mut lock(watching).timeline;
        (timeline.scenario, timeline.seed, timeline.claim) = (plan.scenario.clone(), plan.seed, claim.to_owned());
        timeline.faults = plan.faults.iter().map(|fault| bar(fault, &plan.shape)).collect();
        let fault = |deed: &Deed| plan.faults.iter().position(|fault| fault.number == deed.number);
        let done = |deed: &Deed| Some(Done { at_us: micros(deed.at), fault: fault(deed)?, stage: deed.stage, what: deed.what.clone() });
        timeline.deeds = deeds.iter().filter_map(done).collect();
        timeline.operations = history.operations.iter().filter_map(|operation| serde_json::to_value(operation).ok()).collect();
    }

    /// What was seen.
    pub fn take(&self) -> Option<Timeline> {
        self.0.as_ref().map(|watching| std::mem::take(&mut lock(watching).timeline))
    }
}

fn lock(watching: &Arc<Mutex<Watching>>) -> MutexGuard<'_, Watching> {
    watching.lock().expect("nothing panics under this lock")
}

impl Watching {
    fn mark(&mut self, ns: u64, kind: &'static str, bytes: &[u8]) {
        let rare = !kind.starts_with("frame ") && !kind.starts_with("bytes ") && !kind.starts_with("disk ") && !kind.starts_with("file ");
        // Texts only: all else is traffic.
        let text = std::str::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control));
        let (true, Some(text)) = (rare, text) else { return };
        match kind {
            "machine pause" => {
                self.paused.insert(text.to_owned());
            }
            "machine resume" | "machine restart" | "machine kill" | "machine silent kill" | "machine power cut" => {
                self.paused.remove(text);
            }
            _ => {}
        }
        if self.timeline.marks.len() < MARKS_MAX {
            let us = ns.saturating_sub(self.began_ns) / 1000;
            self.timeline.marks.push((us, kind.to_owned(), text.to_owned()));
        }
    }

    /// A lane is in `state` from now until it is said otherwise.
    fn note(&mut self, us: u64, kind: Kind, name: &str, of: &str, state: String) {
        let next = self.timeline.lanes.len();
        let index = *self.lanes.entry(name.to_owned()).or_insert(next);
        if index == next {
            self.timeline.lanes.push(Lane { kind, name: name.to_owned(), of: of.to_owned(), spans: Vec::new() });
        }
        let spans = &mut self.timeline.lanes[index].spans;
        match spans.last_mut() {
            Some((_, until, same)) if *same == state => *until = us,
            last => {
                if let Some((_, until, _)) = last {
                    *until = us;
                }
                spans.push((us, us, state));
            }
        }
    }
}

fn look(watching: &mut Watching, cluster: &Cluster, shape: &Shape, began: Instant, number: u64) {
    let us = time::now().duration_since(began).as_micros() as u64;
    if number == 0 {
        watching.began_ns = side::elapsed_ns();
    }
    watching.timeline.until_us = us;
    // Group -> the claim to lead it of the highest term.
    let mut leaders: BTreeMap<u64, (u64, Option<String>)> = BTreeMap::new();
    let mut reachable: BTreeSet<String> = BTreeSet::new();
    for (index, machine) in cluster.machines.iter().enumerate() {
        let name = machine.name().to_owned();
        let paused = watching.paused.contains(&name);
        let running = if machine.is_dead() { None } else { cluster.node(index) };
        let state = match &running {
            _ if machine.is_dead() => "down",
            _ if paused => "paused",
            None => "starting",
            Some(_) => "up",
        };
        watching.note(us, Kind::Node, &name, &format!("zone {}", shape.zone_of(index)), state.to_owned());
        let drives = running.as_ref().map(|node| node.storage().status()).unwrap_or_default();
        for (position, drive) in machine.drives().iter().enumerate() {
            let seen = drives.iter().find(|status| status.label == drive.label());
            let state = match seen {
                None if running.is_some() => "not served".to_owned(),
                None => state.to_owned(),
                Some(status) => status.closed.clone().map_or_else(|| "open".to_owned(), |reason| format!("closed: {reason}")),
            };
            if state == "open" && !paused {
                reachable.insert(drive.label().to_owned());
            }
            watching.note(us, Kind::Drive, &drive_name(index, position), &name, state);
        }
        for replica in running.iter().flat_map(|node| node.host().status()) {
            let claim = leaders.entry(replica.group.0).or_insert((0, None));
            let leads = replica.leader == Some(replica.replica) && !paused;
            if leads && (replica.term > claim.0 || claim.1.is_none()) {
                *claim = (replica.term, Some(name.clone()));
            }
        }
    }
    for (group, (term, leader)) in leaders {
        let state = leader.map_or_else(|| "no leader".to_owned(), |name| format!("{name} term {term}"));
        let name = if group == protocol::ROOT.0 { "root group".to_owned() } else { format!("group {group}") };
        watching.note(us, Kind::Group, &name, "", state);
    }
    if number.is_multiple_of(LOOKS_PER_VOLUMES) {
        let state = volumes(cluster, shape, &reachable);
        watching.note(us, Kind::Volumes, "volumes", "", state);
    }
}

/// The lane of a drive.
fn drive_name(node: usize, drive: usize) -> String {
    format!("node-{} drive {drive}", node + 1)
}

/// How many volumes are whole, lack slots, or cannot be read, counted by the slot files on the raw drives.
fn volumes(cluster: &Cluster, shape: &Shape, reachable: &BTreeSet<String>) -> String {
    let (k, n) = (shape.scheme.data(), shape.scheme.total());
    // Volume and generation -> slots, and those within reach.
    let mut slots: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    for drive in cluster.machines.iter().flat_map(|machine| machine.drives()) {
        for entry in drive.inspect().list("slots").unwrap_or_default() {
            let Some((volume, slot)) = entry.name.strip_suffix(".slot").and_then(|stem| stem.rsplit_once('-')) else { continue };
            let (all, within) = slots.entry(volume.to_owned()).or_default();
            all.insert(slot.to_owned());
            if reachable.contains(drive.label()) {
                within.insert(slot.to_owned());
            }
        }
    }
    let (mut whole, mut reduced, mut lost) = (0, 0, 0);
    for (all, within) in slots.values() {
        match within.len() {
            // One that is still being built holds nothing yet.
            _ if all.len() < n => {}
            count if count >= n => whole += 1,
            count if count >= k => reduced += 1,
            _ => lost += 1,
        }
    }
    format!("{whole} whole, {reduced} reduced, {lost} unreadable")
}

fn bar(fault: &Planned, shape: &Shape) -> Bar {
    let lanes = match &fault.aim {
        Aim::Nodes(nodes) => nodes.iter().map(|node| format!("node-{}", node + 1)).collect(),
        Aim::Groups(_) => Vec::new(),
        Aim::RootLeader => vec!["root group".to_owned()],
        other => other.places(shape).unwrap_or_default().into_iter().map(|place| drive_name(place.node, place.drive)).collect(),
    };
    let (from_us, until_us) = (micros(fault.from()), micros(fault.until()));
    Bar { from_us, until_us, fault: fault.fault.name().to_owned(), text: fault.to_string(), lanes }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_lasts_until_another_one_is_seen() {
        let mut watching = Watching::default();
        for (us, state) in [(0, "up"), (100, "up"), (200, "down"), (300, "up")] {
            watching.note(us, Kind::Node, "node-1", "zone 0", state.to_owned());
        }
        let spans: Vec<(u64, u64, &str)> =
            watching.timeline.lanes[0].spans.iter().map(|(from, until, state)| (*from, *until, state.as_str())).collect();
        assert_eq!(spans, [(0, 200, "up"), (200, 300, "down"), (300, 300, "up")]);
    }

    #[test]
    fn pauses_are_known_from_events_and_traffic_is_not_kept() {
        let mut watching = Watching::default();
        watching.mark(5_000, "machine pause", b"node-1");
        watching.mark(6_000, "frame sent", b"abc");
        assert!(watching.paused.contains("node-1"));
        watching.mark(7_000, "machine resume", b"node-1");
        assert!(watching.paused.is_empty());
        assert_eq!(watching.timeline.marks.len(), 2);
    }
}
