//! What the simulator judges of a run: what the clients saw, and what lies on the simulated drives where no client can
//! look. [`Judge`] is told of each acknowledgement while the run goes on,
//! and judges all when it is over.

mod acknowledged;
mod buckets;
mod caches;
mod claims;
mod drives;
mod expiry;
mod fences;
mod ledger;
mod liveness;
mod log_files;
mod logs;
mod memory;
mod panics;
mod refoundings;
mod replicas;
mod rules;
mod slots;
mod surface;
mod time;
mod volumes;
mod witness;

pub use panics::watch_panics;
pub use witness::Accepted;

use crate::cluster::Cluster;
use crate::violation::{self, Violation};
use claims::Claims;
use consensus::host::ReplicaStatus;
use consensus::refounding::Refounding;
use drives::{Drives, Harm};
use jepsen_like::check::{self, Final};
use jepsen_like::history::{History, Operation};
use jepsen_like::s3::Client;
use jepsen_like::scenario::{Acknowledged, Scenario};
use jepsen_like::workload::{self, Standing};
use ledger::Ledger;
use logs::Logs;
use protocol::{BlobId, BucketId, DriveId, GroupId, Home, ROOT, ReplicaId};
use runtime::side;
use runtime::time::Instant;
use slots::Slots;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use volumes::Volumes;

/// Simulated time after the last fault in which the cluster must serve, where the scenario does not say.
const SERVICE_WITHIN: Duration = Duration::from_secs(60);

/// Judges one run.
pub struct Judge {
    scenario: Scenario,
    cluster: Arc<Cluster>,
    drives: Drives,
    state: Mutex<State>,
}

/// What was seen of the raw drives so far.
struct State {
    logs: Logs,
    slots: Slots,
    found: Vec<Violation>,
    /// Of what was acknowledged, by the drive that should have held it.
    missing: Vec<acknowledged::Missing>,
    claims: Claims,
    volumes: Volumes,
    time: time::ClusterTime,
    /// Files that were shown wrongly at some time.
    struck: BTreeSet<(DriveId, String)>,
    /// Drives that were out of reach or showed wrong bytes at some time.
    touched: BTreeSet<DriveId>,
    /// Drives on which nothing rotted but states of replicas.
    rotten_states: BTreeSet<DriveId>,
    /// Replicas whose programs were too old for their groups.
    too_old: BTreeSet<ReplicaId>,
}

impl Judge {
    /// Begin to watch `cluster`.
    pub fn new(scenario: &Scenario, cluster: Arc<Cluster>) -> Judge {
        let drives = Drives::of(&cluster);
        let logs = Logs::new(node::inspect::groups(&cluster.bootstrap));
        let state = Mutex::new(State {
            logs,
            slots: Slots::default(),
            found: Vec::new(),
            missing: Vec::new(),
            claims: Claims::default(),
            volumes: Volumes::default(),
            time: time::ClusterTime::default(),
            struck: BTreeSet::new(),
            touched: BTreeSet::new(),
            rotten_states: BTreeSet::new(),
            too_old: BTreeSet::new(),
        });
        Judge { scenario: scenario.clone(), cluster, drives, state }
    }

    /// A client has the reply to `operation` at this moment.
    pub fn acknowledged(&self, operation: &Operation) {
        if !acknowledged::is_promise(operation) {
            return;
        }
        let mut state = self.advanced();
        let State { logs, slots, missing, .. } = &mut *state;
        missing.extend(acknowledged::judge(operation, &self.drives, logs, slots));
    }

    /// Take in what the drives hold by now: logs are cut, so that looking only at acknowledgements could miss entries.
    pub fn watch(&self) {
        let mut state = self.advanced();
        let harm = Harm::now(&self.drives, &self.cluster);
        state.struck.extend(harm.marked().cloned());
        state.touched.extend(harm.marked().map(|(drive, _)| *drive));
        state.touched.extend(harm.outs().filter(|drive| harm.out(*drive) == Some(drives::Out::Drive)));
    }

    /// A volume was sealed, as its answer says at this moment: a fence is durable before it is answered.
    pub fn fenced(&self, sealed: &node::Sealed) {
        let found = fences::judge_headers(sealed, &self.drives);
        self.state.lock().expect("nothing panics under this lock").missing.extend(found);
    }

    /// Buckets by incarnation, with their partitions, as the root group's log knows them.
    pub fn buckets(&self) -> BTreeMap<BucketId, Vec<GroupId>> {
        let state = self.advanced();
        let buckets = node::inspect::buckets(state.logs.root().rows());
        buckets.into_iter().map(|bucket| (bucket.id, bucket.partitions)).collect()
    }

    /// Groups that cannot go on without the drives that are `away`, if nothing that was acknowledged would be lost with them in this moment.
    pub fn endangered(&self, away: &BTreeSet<DriveId>) -> Option<Vec<GroupId>> {
        self.advanced().logs.endangered(away)
    }

    /// An operator is about to found a group anew, as `plan` says.
    pub fn expects(&self, plan: &Refounding) {
        let Some(place) = self.drives.get(plan.from.drive) else { return };
        // What was decided at an earlier attempt is taken in.
        self.advanced().logs.expect(plan, place.drive.inspect().as_ref());
    }

    /// Commands that a group accepted lately, the oldest first.
    pub fn accepted(&self, group: GroupId) -> Vec<Accepted> {
        self.advanced().logs.witness(group).accepted().cloned().collect()
    }

    /// Blobs that lie in slots and that no record has named, with the homes that their shards say.
    pub fn orphans(&self) -> Vec<(Home, BlobId)> {
        let state = self.advanced();
        let mut found = BTreeMap::new();
        for (id, _) in self.drives.iter() {
            let shards = slots::shards(self.drives.durable(id).as_ref());
            found.extend(shards.into_iter().filter(|(blob, _)| !state.logs.has_home(*blob)));
        }
        found.into_iter().map(|(blob, home)| (home, blob)).collect()
    }

    /// Faults may cost acknowledged versions, if the ledger says so.
    fn beyond_budget(&self) -> bool {
        self.scenario.expect.acknowledged == Some(Acknowledged::LostAsTheLedgerSays)
    }

    /// What the nemesis did that nothing shows any more: it struck `damaged`, states of replicas rotted on `rotten_states`, and other drives
    /// stand in the places of `exchanged`. What was acknowledged in the moment of an exchange is not there any more although it was durable.
    pub fn explain(&self, damaged: &BTreeSet<DriveId>, rotten_states: &BTreeSet<DriveId>, exchanged: &BTreeSet<DriveId>) {
        let mut state = self.state.lock().expect("nothing panics under this lock");
        state.touched.extend(damaged.union(rotten_states));
        state.rotten_states =
            rotten_states.iter().filter(|drive| !damaged.contains(drive) && !exchanged.contains(drive)).copied().collect();
        let excused: BTreeSet<DriveId> = state.touched.union(exchanged).copied().collect();
        let unkept = state.claims.end(&excused);
        state.found.extend(unkept);
        let missing = std::mem::take(&mut state.missing);
        let blamed = missing.into_iter().filter(|missing| missing.drive.is_none_or(|drive| !exchanged.contains(&drive)));
        state.found.extend(blamed.map(|missing| missing.what));
    }

    /// All faults are healed, the last one at `healed`: whether every gateway serves again in time.
    pub async fn serves_again(&self, clients: &[Client], healed: Instant) {
        if self.beyond_budget() {
            return;
        }
        let within = self.scenario.expect.service_within.unwrap_or(SERVICE_WITHIN);
        let mut found = liveness::judge(&self.cluster, clients, healed + within).await;
        if self.scenario.nemeses.iter().any(|nemesis| time::is_of_clocks(nemesis.fault)) {
            found.extend(self.time_goes_on().await);
        }
        self.state.lock().expect("nothing panics under this lock").found.extend(found);
    }

    /// Cluster time comes as far as most clocks show by now, or one step; where most do not agree it stands.
    async fn time_goes_on(&self) -> Option<Violation> {
        let (shown, from, agree) = {
            let state = self.advanced();
            let root = state.logs.members(ROOT);
            (time::most_show(&self.cluster, root), state.time.seen_ms(), time::most_agree(&self.cluster, root))
        };
        match agree {
            Some(true) => {}
            Some(false) => return self.time_stands().await,
            None => return None,
        }
        let aim = if from == 0 { shown } else { shown.min(from + node::inspect::CLUSTER_TIME_STEP_MS_MAX) };
        let deadline = runtime::time::now() + time::GOES_ON_WITHIN;
        while self.advanced().time.seen_ms() < aim {
            if runtime::time::now() >= deadline {
                let text = format!("cluster time was {from} ms, and is not at {aim} ms {} s later", time::GOES_ON_WITHIN.as_secs());
                return Some(Violation::new("cluster-time-goes-on", text));
            }
            runtime::time::sleep(Duration::from_millis(500)).await;
        }
        None
    }

    async fn time_stands(&self) -> Option<Violation> {
        runtime::time::sleep(time::LAST_MARK_WITHIN).await;
        let from = self.advanced().time.seen_ms();
        runtime::time::sleep(time::STANDS_FOR).await;
        let to = self.advanced().time.seen_ms();
        let text = || format!("cluster time went on from {from} to {to} ms, and the clocks of no majority of the root voters agree");
        (to != from).then(|| Violation::new("cluster-time-held", text()))
    }

    /// The run is over, all is healed, and each bucket was read back: everything that is wrong.
    pub async fn end(&self, history: &History, read_back: &BTreeMap<String, Standing>, sealed: &[node::Sealed]) -> Vec<Violation> {
        self.watch();
        let (touched, rotten_states) = {
            let state = self.state.lock().expect("nothing panics under this lock");
            (state.touched.clone(), state.rotten_states.clone())
        };
        let placed = || {
            let state = self.advanced();
            let logs = &state.logs;
            let groups = logs.groups().map(|group| (group, logs.members(group).clone())).collect();
            let lost: BTreeSet<DriveId> = node::inspect::lost_drives(logs.root().rows()).into_iter().collect();
            let heal = rotten_states.difference(&lost).copied().collect();
            replicas::Placed {
                founded: node::inspect::groups(&self.cluster.bootstrap),
                groups,
                lost,
                heal,
                anew: logs.founded_anew().clone(),
                full: self.scenario.expect.voters_full,
            }
        };
        let mut found = replicas::compare(&self.cluster, &self.drives, &touched, placed).await;
        found.extend(replicas::compare_rows(&self.cluster, &touched).await);
        found.extend(log_files::judge(&self.cluster, &self.drives, &touched).await);
        found.extend(caches::judge(&self.cluster, |kept| caches::differing(kept, self.advanced().logs.root().rows())).await);
        if !self.beyond_budget() {
            found.extend(buckets::judge(|| node::inspect::unfinished_buckets(self.advanced().logs.root().rows())).await);
        }
        if self.scenario.expect.memory_bounded {
            found.extend(memory::judge(&self.cluster).await);
        }
        let (ledger, on_drives) = self.judge_drives();
        found.extend(self.judge_history(history, read_back, &ledger));
        found.extend(on_drives);
        found.extend(fences::judge(sealed, &ledger, &touched));
        let repeated = side::repeated().into_iter();
        found.extend(repeated.map(|(kind, id)| Violation::new("id-never-twice", format!("the {kind} {id:?} was given out twice"))));
        found.extend(panics::take());
        violation::abridged(found)
    }

    /// How the versions that keys have at the end stand, by name.
    pub fn standing(&self) -> Vec<(&'static str, usize)> {
        let mut state = self.advanced();
        let State { logs, slots, .. } = &mut *state;
        let ledger = Ledger::take(&self.drives, &Harm::now(&self.drives, &self.cluster), logs, slots);
        vec![("versions at the end", ledger.0.len()), ("at risk", ledger.at_risk().count()), ("lost", ledger.lost().count())]
    }

    fn advanced(&self) -> std::sync::MutexGuard<'_, State> {
        let status = self.status();
        let mut committed: BTreeMap<GroupId, u64> = BTreeMap::new();
        for replica in &status {
            let known = committed.entry(replica.group).or_default();
            *known = (*known).max(replica.committed);
        }
        let mut guard = self.state.lock().expect("nothing panics under this lock");
        let State { logs, claims, volumes, time, found, missing, too_old, .. } = &mut *guard;
        found.extend(logs.advance(&self.drives, &committed, time.seen_ms()));
        claims.note(side::elapsed_ns(), &status);
        claims.judge(&status, logs);
        missing.extend(volumes.judge(logs, &self.drives));
        // No fault takes a program back, so no group may be further than any of its replicas can follow.
        for old in status.iter().filter(|status| status.program_too_old && too_old.insert(status.replica)) {
            let text = format!("replica {} of group {} cannot follow: {:?}", old.replica, old.group, old.trouble);
            found.push(Violation::new("version-known-to-all", text));
        }
        let readings = logs.take_readings();
        let most = || time::most_showed(&self.cluster, logs);
        found.extend(time.judge(node::inspect::cluster_time_ms(logs.root().rows()), most));
        if !readings.is_empty() {
            found.extend(time::judge_readings(&readings, most()));
        }
        guard
    }

    /// All replicas of the nodes that run.
    fn status(&self) -> Vec<ReplicaStatus> {
        let running = (0..self.cluster.machines.len()).filter(|index| !self.cluster.machines[*index].is_dead());
        running.filter_map(|index| self.cluster.node(index)).flat_map(|node| node.host().status()).collect()
    }

    /// Code tells of a step, at this very moment.
    pub fn told(&self, kind: &str, numbers: &[u64]) {
        let now = side::elapsed_ns();
        if let ("consensus-read-answered", [group, applied, waited]) = (kind, numbers) {
            let status = self.status();
            let mut state = self.state.lock().expect("nothing panics under this lock");
            // Measured by a clock that may be a little slow.
            let came = now.saturating_sub(waited + waited / 1000);
            let found = state.claims.answered(GroupId(*group), *applied, came);
            state.claims.note(now, &status);
            state.found.extend(found);
        }
    }

    /// What lies on the raw drives.
    fn judge_drives(&self) -> (Ledger, Vec<Violation>) {
        let mut state = self.advanced();
        let State { logs, slots, found, struck, .. } = &mut *state;
        let harm = Harm::now(&self.drives, &self.cluster);
        let ledger = Ledger::take(&self.drives, &harm, logs, slots);
        if !self.beyond_budget() {
            let text = |line: &ledger::Line| format!("I1: {} is lost on the raw drives: {:?}", line.key, line.stripes);
            found.extend(ledger.lost().map(|line| Violation::new("lost-on-drives", text(line))));
        }
        for (line, reason) in ledger.0.iter().filter_map(|line| Some((line, line.wrong.as_ref()?))) {
            let text = format!("I1: {} does not come out of the raw drives: {reason}", line.key);
            found.push(Violation::new("decodes-from-drives", text));
        }
        found.extend(surface::judge(&self.drives, struck));
        (ledger, std::mem::take(found))
    }

    /// Keys of a bucket that faults beyond the budget have cost.
    fn lost_keys<'a>(&self, bucket: &str, ledger: &'a Ledger) -> BTreeSet<&'a str> {
        if !self.beyond_budget() {
            return BTreeSet::new();
        }
        let state = self.state.lock().expect("nothing panics under this lock");
        let id = node::inspect::bucket(state.logs.root().rows(), bucket).map(|bucket| bucket.id);
        ledger.lost().filter(|line| Some(line.bucket) == id).map(|line| line.key.as_str()).collect()
    }

    /// Which of `keys` nobody can ask for, as faults beyond the budget left the group that would know without a quorum: also of a key that
    /// nothing stands under nobody can say so then.
    fn out_of_reach<'a>(&self, bucket: &str, keys: impl Iterator<Item = &'a String>) -> BTreeSet<&'a str> {
        if !self.beyond_budget() {
            return BTreeSet::new();
        }
        let state = self.state.lock().expect("nothing panics under this lock");
        let lacking = ledger::without_quorum(&Harm::now(&self.drives, &self.cluster), &state.logs);
        let Some(bucket) = node::inspect::bucket(state.logs.root().rows(), bucket) else { return BTreeSet::new() };
        let group = |key: &str| bucket.partitions[(protocol::key_hash(bucket.id, key) % bucket.partitions.len() as u64) as usize];
        keys.map(String::as_str).filter(|key| lacking.contains(&group(key))).collect()
    }

    /// What the clients saw. Beyond the budget, keys may be unreadable that the ledger calls lost or that are out of reach, and no others.
    fn judge_history(&self, history: &History, read_back: &BTreeMap<String, Standing>, ledger: &Ledger) -> Vec<Violation> {
        let (mut violations, mut found): (Vec<check::Violation>, Vec<Violation>) = (Vec::new(), Vec::new());
        for (bucket, Standing { finals, listed }) in read_back {
            let lost = self.lost_keys(bucket, ledger);
            let mut unsound = check::read_back(history, bucket, finals);
            let silent = self.out_of_reach(bucket, finals.keys());
            let excused = |key: &str| lost.contains(key) || silent.contains(key);
            unsound.retain(|violation| !matches!(violation, check::Violation::Unreadable { key, .. } if excused(key)));
            violations.extend(unsound);
            found.extend(readable_though_lost(&lost, finals));
            match listed {
                Ok(listed) => violations.extend(check::listing(finals, listed)),
                Err(_) if !silent.is_empty() || (self.beyond_budget() && ledger.0.iter().any(|line| line.without_quorum)) => {}
                Err(error) => found.push(Violation::new("listable-at-the-end", format!("no listing of {bucket}: {error}"))),
            }
        }
        if self.scenario.expect.linearizable {
            violations.extend(check::linearizable(history));
            violations.extend(check::model::uploads(history));
            violations.extend(check::model::versions(history));
            let founded = workload::buckets(&self.scenario);
            violations.extend(check::model::buckets(history, &founded.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        if self.scenario.expect.listings_complete {
            violations.extend(check::listings(history));
        }
        found.extend(violations.iter().map(|violation| Violation::new(violation.check(), violation.to_string())));
        found
    }
}

/// Keys that were read although the ledger calls them lost: the ledger is wrong, or what was read is.
fn readable_though_lost(lost: &BTreeSet<&str>, finals: &BTreeMap<String, Final>) -> Vec<Violation> {
    let read = |key: &&&str| finals.get(**key).is_some_and(|found| found.is_ok());
    lost.iter()
        .filter(read)
        .map(|key| Violation::new("ledger-agrees", format!("{key}: the ledger says that it is lost, but it was read")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jepsen_like::history::Seen;

    #[test]
    fn the_ledger_may_not_call_lost_what_can_be_read() {
        let finals: BTreeMap<String, Final> = [("a".to_string(), Ok(Seen::Absent)), ("b".to_string(), Err("503".to_string()))].into();
        assert_eq!(readable_though_lost(&BTreeSet::from(["b"]), &finals).len(), 0);
        assert_eq!(readable_though_lost(&BTreeSet::from(["a", "b"]), &finals).len(), 1);
    }
}
