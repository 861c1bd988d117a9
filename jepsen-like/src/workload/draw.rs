//! A seed becomes the operations of all clients. Each client draws from a stream of its own, in order.

use std::collections::VecDeque;

use super::draws::Draws;
use super::step::{Naming, Place, PlannedAction, PlannedList, Rudeness, Step, UploadName, VersionAction, WIDE_FROM, bucket_name, key_name};
use crate::scenario::{Scenario, Workload, WorkloadKind};

/// Buckets that a workload of buckets creates and deletes.
pub(super) const RACED_BUCKETS: u32 = 3;
/// Every part but the last has at least so many bytes.
const PART_BYTES_MIN: u64 = 5 << 20;
/// Up to this length, different values may have the same bytes, and so the same ETag. Where values are told by ETags
/// alone, in uploads and copies, none is so short.
pub(super) const TINY_BYTES: u64 = 16;

/// What the clients of `scenario` do under `seed`, in the order of their times.
pub fn draw(scenario: &Scenario, seed: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    for (number, workload) in scenario.workloads.iter().enumerate() {
        let number = u32::try_from(number).expect("a scenario has few workloads");
        for client in 0..u32::try_from(workload.clients).expect("a scenario has few clients") {
            let endpoints = u64::try_from(scenario.cluster.nodes()).expect("a cluster has few nodes");
            let mut drawn = Drawing::new(workload, number, client, endpoints, seed);
            while let Some(step) = drawn.step() {
                steps.push(step);
            }
        }
    }
    steps.sort_by_key(|step| (step.at_us, step.workload, step.client, step.number));
    steps
}

/// The drawing of one client's steps.
struct Drawing<'a> {
    workload: &'a Workload,
    workload_number: u32,
    client: u32,
    endpoints: u64,
    home: u64,
    number: u32,
    at_us: u64,
    draws: Draws,
    /// Drawn already, as parts of one upload.
    waiting: VecDeque<PlannedAction>,
}

impl<'a> Drawing<'a> {
    fn new(workload: &'a Workload, workload_number: u32, client: u32, endpoints: u64, seed: u64) -> Drawing<'a> {
        let draws = Draws::new(seed, &format!("workload {workload_number} client {client}"));
        let home = u64::from(client) % endpoints;
        Drawing { workload, workload_number, client, endpoints, home, number: 0, at_us: 0, draws, waiting: VecDeque::new() }
    }

    /// The next step, unless it would begin after the workload's end.
    fn step(&mut self) -> Option<Step> {
        self.at_us += self.pause_us();
        if u128::from(self.at_us) >= self.workload.until.as_micros() {
            return None;
        }
        self.number += 1;
        // Half of the time another gateway than the last: what one wrote, another must show.
        let endpoint = if self.draws.once_in(2) { self.home } else { self.draws.below(self.endpoints) };
        let action = match self.waiting.pop_front() {
            Some(action) => action,
            None => self.action(),
        };
        Some(Step {
            workload: self.workload_number,
            client: self.client,
            number: self.number,
            at_us: self.at_us,
            endpoint: u32::try_from(endpoint).expect("a cluster has few nodes"),
            action,
        })
    }

    /// One in four is much shorter, so that operations come in bursts; none is nothing.
    fn pause_us(&mut self) -> u64 {
        let most = u64::try_from(self.workload.pause.as_micros()).expect("a pause of less than a year");
        let most = if self.draws.once_in(4) { most / 16 } else { most };
        1000 + self.draws.between(0, most)
    }

    fn action(&mut self) -> PlannedAction {
        match self.workload.kind {
            WorkloadKind::PutGetDelete => self.object(),
            WorkloadKind::List => self.listing_among_writes(),
            WorkloadKind::Multipart => self.multipart(),
            WorkloadKind::Copy => self.copying(),
            WorkloadKind::Buckets => self.buckets(),
            WorkloadKind::Rude => self.rude(),
            WorkloadKind::Overload => self.overload(),
            WorkloadKind::Versions => self.versioned(),
        }
    }

    fn place(&mut self) -> Place {
        Place(0, self.key())
    }

    fn key(&mut self) -> u32 {
        u32::try_from(self.draws.one_of(self.workload.keys)).expect("a scenario has few keys")
    }

    fn bytes(&mut self) -> u64 {
        let (least, most) = (*self.workload.object_bytes.start(), *self.workload.object_bytes.end());
        // Half of them small: sizes spread over their magnitudes, not over their range.
        let most = if self.draws.once_in(2) { most } else { least.max(most >> self.draws.below(16)) };
        self.draws.between(least, most)
    }

    /// Of a value that an ETag alone must tell from all others.
    fn telling_bytes(&mut self) -> u64 {
        self.bytes().max(TINY_BYTES + 1)
    }

    fn object(&mut self) -> PlannedAction {
        let at = self.place();
        match self.draws.below(24) {
            0..=5 => PlannedAction::Get(at),
            6..=7 => PlannedAction::GetRange { at, from_end: self.draws.once_in(2), bytes: self.bytes() },
            8..=9 => PlannedAction::Head(at),
            10..=11 => PlannedAction::Delete(at),
            12 => PlannedAction::DeleteIfMatches(at),
            13..=15 => PlannedAction::PutIfAbsent { at, bytes: self.bytes() },
            16..=18 => PlannedAction::PutIfMatches { at, bytes: self.bytes() },
            _ => PlannedAction::Put { at, bytes: self.bytes() },
        }
    }

    fn overload(&mut self) -> PlannedAction {
        let at = self.place();
        match self.draws.below(10) {
            0..=3 => PlannedAction::Get(at),
            4 => PlannedAction::Delete(at),
            _ => {
                PlannedAction::Put { at, bytes: self.draws.between(*self.workload.object_bytes.start(), *self.workload.object_bytes.end()) }
            }
        }
    }

    fn listing_among_writes(&mut self) -> PlannedAction {
        let at = self.place();
        if self.is_wide() {
            // Full of keys that stay: what a page leaves out must have stood.
            return match self.draws.below(20) {
                0..=4 => self.list_folders(),
                5 => self.list(0),
                6 => PlannedAction::Delete(at),
                _ => PlannedAction::Put { at, bytes: self.bytes() },
            };
        }
        match self.draws.below(20) {
            0..=5 => self.list(0),
            6..=11 => PlannedAction::Put { at, bytes: self.bytes() },
            12..=15 => PlannedAction::Delete(at),
            16 => self.delete_many(),
            _ => PlannedAction::Get(at),
        }
    }

    fn delete_many(&mut self) -> PlannedAction {
        let count = self.draws.between(1, 8);
        let places: std::collections::BTreeSet<Place> = (0..count).map(|_| self.place()).collect();
        PlannedAction::DeleteMany(places.into_iter().collect())
    }

    fn is_wide(&self) -> bool {
        self.workload.keys > WIDE_FROM as usize
    }

    /// The folders of a wide bucket, in pages of which each partition alone could fill most.
    fn list_folders(&mut self) -> PlannedAction {
        PlannedAction::List(PlannedList {
            bucket: 0,
            first_version: self.draws.once_in(3),
            prefix: if self.draws.once_in(2) { "d".to_owned() } else { String::new() },
            delimiter: "/".to_owned(),
            after: None,
            keys_max: [17, 20, 24][self.draws.one_of(3)],
        })
    }

    /// Of any prefix that keys have, in small pages as in large ones.
    fn list(&mut self, bucket: u32) -> PlannedAction {
        let named = key_name(self.key());
        let cuts: Vec<usize> = named.char_indices().map(|(at, _)| at).collect();
        let cut = if self.draws.once_in(3) { 0 } else { cuts[self.draws.one_of(cuts.len())] };
        let after = self.draws.once_in(3).then(|| key_name(self.key()));
        let (first_version, delimited) = (self.draws.once_in(3), self.draws.once_in(2));
        PlannedAction::List(PlannedList {
            bucket,
            first_version,
            prefix: named[..cut].to_owned(),
            delimiter: if delimited { ["/", "/", "0", "b/"][self.draws.one_of(4)].to_owned() } else { String::new() },
            after,
            keys_max: [1, 2, 3, 5, 8, 13, 1000][self.draws.one_of(7)],
        })
    }

    fn multipart(&mut self) -> PlannedAction {
        let at = self.place();
        match self.draws.below(12) {
            0..=1 => PlannedAction::Get(at),
            2 => PlannedAction::Head(at),
            3 => PlannedAction::Delete(at),
            4 => PlannedAction::Put { at, bytes: self.telling_bytes() },
            10 => PlannedAction::ListUploads(at.0),
            11 => {
                let other = u32::try_from(self.draws.one_of(self.workload.clients)).expect("few clients");
                self.list_parts(UploadName::LatestOf(other))
            }
            5 if self.workload.clients > 1 => {
                // Somebody else's upload, while its owner is at it.
                let other = u32::try_from(self.draws.one_of(self.workload.clients)).expect("few clients");
                let upload = UploadName::LatestOf(other);
                if self.draws.once_in(2) {
                    PlannedAction::Abort { upload }
                } else {
                    PlannedAction::Complete { upload, naming: Naming::All }
                }
            }
            _ => self.upload(at),
        }
    }

    /// A whole upload: its first step now, the others one after another.
    fn upload(&mut self, at: Place) -> PlannedAction {
        let upload = UploadName::Own(self.number);
        let count = [1, 1, 1, 1, 2, 2, 3][self.draws.one_of(7)];
        // Parts of 5 MiB are dear: some uploads have none and must be refused.
        let too_small = count > 1 && self.draws.once_in(3);
        let mut number = 0;
        let mut parts = Vec::new();
        for part in 0..count {
            number += [1, 1, 1, 2, 700][self.draws.one_of(5)];
            let large = part + 1 < count && !too_small;
            let bytes = if large { PART_BYTES_MIN + self.draws.below(1 << 16) } else { self.telling_bytes() };
            parts.push(PlannedAction::UploadPart { upload, part: number, bytes });
        }
        if self.draws.once_in(4) {
            // Replaced, perhaps before it was first sent.
            parts.push(PlannedAction::UploadPart { upload, part: number, bytes: self.telling_bytes() });
        }
        while !parts.is_empty() {
            let next = self.draws.one_of(parts.len());
            self.waiting.push_back(parts.swap_remove(next));
            if self.draws.once_in(4) {
                let list = self.list_parts(upload);
                self.waiting.push_back(list);
            }
        }
        self.finish(upload);
        PlannedAction::CreateUpload(at)
    }

    fn list_parts(&mut self, upload: UploadName) -> PlannedAction {
        PlannedAction::ListParts {
            upload,
            after: [0, 0, 0, 1, 700][self.draws.one_of(5)],
            parts_max: [1000, 1000, 1, 2][self.draws.one_of(4)],
        }
    }

    /// How an upload ends.
    fn finish(&mut self, upload: UploadName) {
        let complete = |naming| PlannedAction::Complete { upload, naming };
        let wrong = [Naming::ButFirst, Naming::Descending, Naming::Strange];
        match self.draws.below(12) {
            // Left as it is.
            0 => return,
            1 => self.waiting.push_back(PlannedAction::Abort { upload }),
            2..=3 => self.waiting.extend([complete(wrong[self.draws.one_of(wrong.len())]), complete(Naming::All)]),
            4..=5 => self.waiting.extend([complete(Naming::All), complete(Naming::All)]),
            6 => self.waiting.extend([complete(Naming::All), PlannedAction::Abort { upload }]),
            _ => self.waiting.push_back(complete(Naming::All)),
        }
        self.waiting.push_back(PlannedAction::CompleteAgain { upload });
    }

    fn copying(&mut self) -> PlannedAction {
        let at = self.place();
        match self.draws.below(20) {
            0..=4 => PlannedAction::Get(at),
            5..=6 => PlannedAction::Delete(at),
            7..=11 => PlannedAction::Put { at, bytes: self.telling_bytes() },
            12..=15 => PlannedAction::Copy { from: self.place(), to: at },
            16..=17 => PlannedAction::CopyOntoItself(at),
            _ => {
                // One part only: parts before the last would have to be large.
                let (upload, from) = (UploadName::Own(self.number), self.place());
                let start_per_mille = if self.draws.once_in(3) { 0 } else { u16::try_from(self.draws.below(1000)).expect("below 1000") };
                let bytes = if self.draws.once_in(3) { u64::MAX } else { self.telling_bytes() };
                self.waiting.extend([
                    PlannedAction::Get(from),
                    PlannedAction::CopyPart { upload, part: 1, from, start_per_mille, bytes },
                    PlannedAction::Complete { upload, naming: Naming::All },
                    PlannedAction::CompleteAgain { upload },
                    PlannedAction::Get(at),
                ]);
                PlannedAction::CreateUpload(at)
            }
        }
    }

    fn buckets(&mut self) -> PlannedAction {
        let bucket = u32::try_from(self.draws.below(u64::from(RACED_BUCKETS))).expect("few buckets");
        let at = Place(bucket, self.key());
        match self.draws.below(22) {
            0..=3 => PlannedAction::CreateBucket(bucket),
            4..=7 => PlannedAction::DeleteBucket(bucket),
            8..=11 => PlannedAction::Put { at, bytes: self.bytes() },
            12..=16 => PlannedAction::Delete(at),
            17..=18 => PlannedAction::Get(at),
            19 => self.list(bucket),
            _ => self.list_buckets(bucket),
        }
    }

    /// All that there are, or of any prefix that the name has, in small pages as in large ones.
    fn list_buckets(&mut self, bucket: u32) -> PlannedAction {
        let mut prefix = bucket_name(self.workload_number, bucket);
        prefix.truncate(if self.draws.once_in(2) { 0 } else { 1 + self.draws.one_of(prefix.len()) });
        PlannedAction::ListBuckets { prefix, buckets_max: [None, None, Some(1), Some(2)][self.draws.one_of(4)] }
    }

    fn versioned(&mut self) -> PlannedAction {
        // Not the first client, which sets versioning at its first step.
        if self.client > 0 && self.draws.once_in(16) {
            let (at, upload) = (self.place(), UploadName::Own(self.number));
            let part = PlannedAction::UploadPart { upload, part: 1, bytes: self.telling_bytes() };
            // Once: what is completed again would have to be told apart from another version.
            self.waiting.extend([part, PlannedAction::Complete { upload, naming: Naming::All }]);
            return PlannedAction::CreateUpload(at);
        }
        PlannedAction::Version(self.version())
    }

    /// The first client alone sets: what it asks for last is what the others write under.
    fn version(&mut self) -> VersionAction {
        if self.client == 0 && (self.number == 1 || self.draws.once_in(8)) {
            return VersionAction::Set(self.number == 1 || self.draws.below(5) < 3);
        }
        let (at, bytes) = (self.place(), self.telling_bytes());
        let pick = [0, 0, 1, 2, 5][self.draws.one_of(5)];
        let plain = |action| VersionAction::Plain(Box::new(action));
        match self.draws.below(37) {
            0..=6 => plain(PlannedAction::Put { at, bytes }),
            7 => plain(PlannedAction::PutIfAbsent { at, bytes }),
            8 => plain(PlannedAction::PutIfMatches { at, bytes }),
            9..=10 => plain(PlannedAction::Delete(at)),
            11 => plain(PlannedAction::DeleteIfMatches(at)),
            12..=13 => plain(PlannedAction::Get(at)),
            14 => plain(PlannedAction::Head(at)),
            15..=18 => VersionAction::Get(at, pick),
            19..=23 => VersionAction::Delete(at, pick),
            24 => VersionAction::Setting,
            25..=27 => VersionAction::SetTags { at, pick: self.draws.once_in(2).then_some(pick), none: self.draws.once_in(4) },
            28..=30 => VersionAction::GetTags(at, self.draws.once_in(2).then_some(pick)),
            31..=33 => VersionAction::Copy { from: self.place(), to: at },
            _ => {
                let prefix = if self.draws.once_in(2) { String::new() } else { key_name(self.key()) };
                VersionAction::List { prefix, keys_max: [2, 3, 5, 8, 1000][self.draws.one_of(5)] }
            }
        }
    }

    fn rude(&mut self) -> PlannedAction {
        let at = self.place();
        match self.draws.below(10) {
            0..=1 => PlannedAction::Get(at),
            2 => PlannedAction::Put { at, bytes: self.bytes() },
            3 => PlannedAction::Delete(at),
            _ => {
                let manner = Rudeness::ALL[self.draws.one_of(Rudeness::ALL.len())];
                // Something must be there to be sent wrongly.
                PlannedAction::Rude { manner, at, bytes: self.telling_bytes() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [&str; 8] = ["put-get-delete", "list", "multipart", "copy", "buckets", "rude", "overload", "versions"];

    fn scenario(kind: &str) -> Scenario {
        let text = include_str!("../../../chaos-scenarios/smoke.toml").replace("put-get-delete", kind);
        Scenario::parse(kind, &text).unwrap()
    }

    #[test]
    fn the_same_seed_draws_the_same_steps_and_others_differ() {
        for kind in KINDS {
            let scenario = scenario(kind);
            let steps = draw(&scenario, 7);
            assert_eq!(steps, draw(&scenario, 7));
            assert_ne!(steps, draw(&scenario, 8));
            assert!(steps.len() > 1000 && steps.len() < 10_000, "{kind}: {} steps", steps.len());
            let until = scenario.until().as_micros();
            assert!(steps.iter().all(|step| u128::from(step.at_us) < until));
        }
    }

    #[test]
    fn steps_are_named_within_their_client_and_go_forward_in_time() {
        for kind in KINDS {
            let mut last = std::collections::BTreeMap::new();
            for step in draw(&scenario(kind), 1) {
                let (number, at_us) = last.insert((step.workload, step.client), (step.number, step.at_us)).unwrap_or((0, 0));
                assert!(step.number == number + 1 && step.at_us > at_us);
            }
        }
    }

    #[test]
    fn more_clients_leave_the_steps_of_the_first_as_they_were() {
        let few = scenario("put-get-delete");
        let mut many = few.clone();
        many.workloads[0].clients += 3;
        many.workloads.push(scenario("list").workloads.remove(0));
        let of_first = |steps: Vec<Step>| steps.into_iter().filter(|step| step.workload == 0 && step.client == 0).collect::<Vec<_>>();
        assert_eq!(of_first(draw(&few, 3)), of_first(draw(&many, 3)));
    }

    #[test]
    fn each_kind_draws_all_that_it_is_for() {
        let drawn = |kind: &str, seeds: std::ops::Range<u64>| {
            let scenario = scenario(kind);
            let steps = seeds.flat_map(|seed| draw(&scenario, seed));
            steps.map(|step| serde_json::to_string(&step.action).unwrap()).collect::<Vec<String>>()
        };
        let holds = |actions: &[String], what: &str| assert!(actions.iter().any(|action| action.contains(what)), "{what}");
        let uploads = drawn("multipart", 0..2);
        for what in [
            "create_upload",
            "upload_part",
            "\"complete\"",
            "complete_again",
            "abort",
            "latest_of",
            "descending",
            "strange",
            "but_first",
            "list_parts",
            "list_uploads",
        ] {
            holds(&uploads, what);
        }
        let copies = drawn("copy", 0..2);
        for what in ["\"copy\"", "copy_onto_itself", "copy_part"] {
            holds(&copies, what);
        }
        let rude = drawn("rude", 0..2);
        for manner in Rudeness::ALL {
            holds(&rude, &serde_json::to_string(&manner).unwrap());
        }
        let lists = drawn("list", 0..1);
        for what in ["delete_many", "\"v1\":true", "\"d\":\"/\"", "\"a\":", "\"m\":1}"] {
            holds(&lists, what);
        }
        for what in [
            "create_bucket",
            "delete_bucket",
            "\"k\":[2,",
            "{\"list_buckets\":{}}",
            "{\"list_buckets\":{\"m\":1}}",
            "{\"list_buckets\":{\"p\":\"work-0-2\"",
        ] {
            holds(&drawn("buckets", 0..1), what);
        }
        for what in [
            "{\"set\":true}",
            "{\"set\":false}",
            "\"setting\"",
            "{\"delete\":[",
            "{\"get\":[",
            "{\"list\":{",
            "put_if_absent",
            "delete_if_matches",
            "{\"copy\":{",
            "\"complete\"",
        ] {
            holds(&drawn("versions", 0..1), what);
        }
    }
}
