//! [`Scenario`]: a claim as a text file of up to about 40 lines; what the cluster is, what is done with it and to it,
//! and what must hold. The same file is run by the simulator and, where the faults allow it, on real processes.
//!
//! Nothing is ignored: an unknown key, fault, target or expectation is refused with its line. There is no seed in a
//! file: a run draws everything from its own.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use protocol::Scheme;
use serde::Deserialize;

/// A parsed scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// From the first comment: `# Claim: ...`.
    pub claim: String,
    /// Invariants that it attacks, like `I4`.
    pub invariants: Vec<String>,
    pub runs_on: Vec<RunsOn>,
    pub cluster: Cluster,
    pub workloads: Vec<Workload>,
    pub nemeses: Vec<Nemesis>,
    pub expect: Expect,
}

/// A scenario that is refused: where and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunsOn {
    Sim,
    Processes,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub zones: usize,
    pub nodes_per_zone: usize,
    pub drives_per_node: usize,
    #[serde(deserialize_with = "scheme")]
    pub scheme: Scheme,
}

impl Cluster {
    /// All nodes.
    pub fn nodes(&self) -> usize {
        self.zones * self.nodes_per_zone
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub kind: WorkloadKind,
    pub clients: usize,
    pub keys: usize,
    /// Sizes of objects, drawn between these.
    pub object_bytes: RangeInclusive<u64>,
    /// When clients begin no further operation, from the start.
    pub until: Duration,
    /// Longest pause of a client between two operations, drawn.
    pub pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadKind {
    /// PUT, conditional PUT, GET and DELETE of few keys by many clients.
    PutGetDelete,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Nemesis {
    pub when: When,
    pub fault: Fault,
    pub target: Target,
    /// How long it lasts before it is healed, drawn between these; for faults that end.
    pub lasts: Option<RangeInclusive<Duration>>,
    pub budget: Budget,
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
}

/// `1 per 5s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

impl Rate {
    /// How many are expected within `time`.
    pub fn expected_in(&self, time: Duration) -> f64 {
        f64::from(self.count) * time.as_secs_f64() / self.per.as_secs_f64()
    }
}

/// Whether all that was acknowledged must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Budget {
    #[default]
    Within,
    Beyond,
}

/// Declares the faults, so that name and variant cannot part.
macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $ends:literal;)*) => {
        /// A fault by its name. Whoever runs a scenario refuses by name those that it cannot produce.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $variant,)* }

        impl Fault {
            pub const ALL: &[Fault] = &[$(Fault::$variant,)*];

            /// As in files.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)* }
            }

            /// Whether it ends by being healed, and so takes `lasts`.
            pub fn ends(self) -> bool {
                match self { $(Fault::$variant => $ends,)* }
            }
        }
    };
}

faults! {
    /// The process dies; what it wrote stays in the kernel.
    Kill = "kill", true;
    /// Process and kernel die: unsynced writes are kept, dropped or torn.
    PowerCut = "power-cut", true;
    /// The process stands still.
    Pause = "pause", true;
    /// Orderly stop and start, one after another.
    RollingRestart = "rolling-restart", false;
    /// Messages between two sides are lost.
    Partition = "partition", true;
    /// In one direction only.
    AsymmetricPartition = "asymmetric-partition", true;
    /// Slow and lossy links.
    BadNetwork = "bad-network", true;
    ClockSkew = "clock-skew", true;
    ClockJump = "clock-jump", false;
    /// The folder or device is gone for good.
    DriveGone = "drive-gone", false;
    DriveFull = "drive-full", true;
    DriveSlow = "drive-slow", true;
    /// Syncs do not come back.
    DriveStuck = "drive-stuck", true;
    /// A sync fails, and the dirty pages are dropped.
    SyncError = "sync-error", false;
    /// A sector cannot be read.
    SectorError = "sector-error", false;
    BitRot = "bit-rot", false;
    MisdirectedWrite = "misdirected-write", false;
    LostWrite = "lost-write", false;
    /// An earlier image of a drive comes back.
    OldDriveCopy = "old-drive-copy", false;
    LeaderTransfer = "leader-transfer", false;
}

/// What a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// So many, drawn.
    Some(u32, Unit),
    /// Every one.
    All(Unit),
    /// One drive drawn among those with shards.
    DrivesThatHoldShards,
    /// Node that leads the root group when the fault comes.
    RootLeader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Drive,
    Node,
    Zone,
}

/// What must hold at the end.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Expect {
    /// `reads = "linearizable"`.
    pub linearizable: bool,
    /// `acknowledged = "never lost"`.
    pub never_lost: bool,
    /// `redundancy = "full within 120s of the last fault"`.
    pub redundancy_within: Option<Duration>,
    /// `service = "back within 10s of the last fault"`.
    pub service_within: Option<Duration>,
}

impl Expect {
    /// Expectations that can be written, but that nothing judges yet. A run must name them, never pass them silently.
    pub fn not_judged(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.redundancy_within.is_some() {
            names.push("redundancy");
        }
        if self.service_within.is_some() {
            names.push("service");
        }
        names
    }
}

impl Scenario {
    /// Parse the text of a scenario called `name` (for messages).
    pub fn parse(name: &str, text: &str) -> Result<Scenario, Error> {
        let fail = |reason: String| Error(format!("scenario {name}: {reason}"));
        let claim = claim(text).ok_or_else(|| fail("line 1: a scenario begins with its claim: # Claim: ...".to_owned()))?;
        let file: File = toml::from_str(text).map_err(|error| fail(located(text, &error)))?;
        if let Some((line, reason)) = unsound(&file, text) {
            return Err(fail(format!("line {line}: {reason}")));
        }
        Ok(Scenario {
            claim,
            invariants: file.invariants,
            runs_on: file.runs_on,
            cluster: file.cluster,
            workloads: file.workload.into_iter().map(Workload::from).collect(),
            nemeses: file.nemesis.into_iter().map(Nemesis::from).collect(),
            expect: Expect {
                linearizable: file.expect.reads.is_some(),
                never_lost: file.expect.acknowledged.is_some(),
                redundancy_within: file.expect.redundancy.map(|Within(time)| time),
                service_within: file.expect.service.map(|BackWithin(time)| time),
            },
        })
    }

    /// When the last workload ends.
    pub fn until(&self) -> Duration {
        self.workloads.iter().map(|workload| workload.until).max().unwrap_or_default()
    }
}

/// The comment at the top, without its `Claim:`.
fn claim(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
    let claim = lines.join(" ");
    claim.strip_prefix("Claim:").map(|claim| claim.trim().to_owned()).filter(|claim| !claim.is_empty())
}

/// `line 7: unknown field ...`.
fn located(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    format!("line {line}: {}", error.message())
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at.min(text.len())].matches('\n').count() + 1
}

/// What parses but makes no sense.
fn unsound(file: &File, text: &str) -> Option<(usize, String)> {
    let at = |needle: &str| text.find(needle).map_or(1, |at| line_of(text, at));
    for invariant in &file.invariants {
        let number = invariant.strip_prefix('I').and_then(|number| number.parse::<u32>().ok());
        if !number.is_some_and(|number| (1..=12).contains(&number)) {
            return Some((at("invariants"), format!("there is no invariant {invariant}: I1 to I12")));
        }
    }
    if file.runs_on.is_empty() {
        return Some((at("runs_on"), "runs nowhere".to_owned()));
    }
    let cluster = &file.cluster;
    let sizes = [cluster.zones, cluster.nodes_per_zone, cluster.drives_per_node];
    if sizes.iter().any(|size| !(1..=100).contains(size)) {
        return Some((at("[cluster]"), "zones, nodes_per_zone and drives_per_node are between 1 and 100".to_owned()));
    }
    let drives = sizes.iter().product::<usize>();
    if drives < cluster.scheme.total() {
        let reason = format!("{} needs {} drives, the cluster has {drives}", cluster.scheme, cluster.scheme.total());
        return Some((at("scheme"), reason));
    }
    for workload in &file.workload {
        if workload.clients == 0 || workload.keys == 0 {
            return Some((at("[[workload]]"), "a workload needs at least one client and one key".to_owned()));
        }
    }
    for nemesis in &file.nemesis {
        let line = at(&format!("\"{}\"", nemesis.fault.name()));
        let fault = nemesis.fault.name();
        match (nemesis.at, &nemesis.during, nemesis.rate) {
            (Some(_), None, None) => {}
            (None, Some(during), Some(_)) if during.start() < during.end() => {}
            _ => return Some((line, format!("{fault}: either `at`, or `during` (a time that passes) with `rate`"))),
        }
        if nemesis.lasts.is_some() && !nemesis.fault.ends() {
            return Some((line, format!("{fault} does not end by itself: no `lasts`")));
        }
    }
    None
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    invariants: Vec<String>,
    runs_on: Vec<RunsOn>,
    cluster: Cluster,
    #[serde(default)]
    workload: Vec<WorkloadTable>,
    #[serde(default)]
    nemesis: Vec<NemesisTable>,
    #[serde(default)]
    expect: ExpectTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkloadTable {
    kind: WorkloadKind,
    clients: usize,
    keys: usize,
    #[serde(deserialize_with = "text::<ByteRange, _>")]
    object_bytes: ByteRange,
    #[serde(deserialize_with = "text::<Time, _>")]
    until: Time,
    #[serde(default, deserialize_with = "some::<Time, _>")]
    pause: Option<Time>,
}

impl From<WorkloadTable> for Workload {
    fn from(table: WorkloadTable) -> Workload {
        Workload {
            kind: table.kind,
            clients: table.clients,
            keys: table.keys,
            object_bytes: table.object_bytes.0,
            until: table.until.0,
            pause: table.pause.map_or(Duration::from_millis(20), |pause| pause.0),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NemesisTable {
    #[serde(default, deserialize_with = "some::<Time, _>")]
    at: Option<Time>,
    #[serde(default, deserialize_with = "some::<TimeRange, _>")]
    during: Option<TimeRange>,
    #[serde(deserialize_with = "text::<Fault, _>")]
    fault: Fault,
    #[serde(deserialize_with = "text::<Target, _>")]
    target: Target,
    #[serde(default, deserialize_with = "some::<Rate, _>")]
    rate: Option<Rate>,
    #[serde(default, deserialize_with = "some::<TimeRange, _>")]
    lasts: Option<TimeRange>,
    #[serde(default)]
    budget: Budget,
}

impl From<NemesisTable> for Nemesis {
    fn from(table: NemesisTable) -> Nemesis {
        let when = match (table.at, table.during, table.rate) {
            (_, Some(during), Some(rate)) => When::During { from: *during.start(), until: *during.end(), rate },
            (at, _, _) => When::At(at.map_or(Duration::ZERO, |at| at.0)),
        };
        Nemesis { when, fault: table.fault, target: table.target, lasts: table.lasts.map(|lasts| lasts.0), budget: table.budget }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ExpectTable {
    #[serde(default)]
    reads: Option<Reads>,
    #[serde(default)]
    acknowledged: Option<Acknowledged>,
    #[serde(default, deserialize_with = "some::<Within, _>")]
    redundancy: Option<Within>,
    #[serde(default, deserialize_with = "some::<BackWithin, _>")]
    service: Option<BackWithin>,
}

#[derive(Deserialize)]
enum Reads {
    #[serde(rename = "linearizable")]
    Linearizable,
}

#[derive(Deserialize)]
enum Acknowledged {
    #[serde(rename = "never lost")]
    NeverLost,
}

/// A value that is written as a text.
trait FromText: Sized {
    /// For the message, like `a duration like 10s`.
    const FORM: &'static str;
    fn from_text(text: &str) -> Option<Self>;
}

#[derive(Clone, Copy)]
struct Time(Duration);
struct TimeRange(RangeInclusive<Duration>);
struct ByteRange(RangeInclusive<u64>);
struct Within(Duration);
struct BackWithin(Duration);

impl std::ops::Deref for TimeRange {
    type Target = RangeInclusive<Duration>;

    fn deref(&self) -> &RangeInclusive<Duration> {
        &self.0
    }
}

impl FromText for Time {
    const FORM: &'static str = "a duration like 500ms, 10s, 2m or 1h";
    fn from_text(text: &str) -> Option<Time> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = text[..digits].parse().ok()?;
        let unit_ms = match &text[digits..] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        number.checked_mul(unit_ms).map(|ms| Time(Duration::from_millis(ms)))
    }
}

impl FromText for TimeRange {
    const FORM: &'static str = "a duration like 5s or a range like 12s..40s";
    fn from_text(text: &str) -> Option<TimeRange> {
        let (from, until) = text.split_once("..").unwrap_or((text, text));
        let (from, until) = (Time::from_text(from)?.0, Time::from_text(until)?.0);
        (from <= until).then_some(TimeRange(from..=until))
    }
}

impl FromText for ByteRange {
    const FORM: &'static str = "a size like 64KiB or a range like 1..1MiB";
    fn from_text(text: &str) -> Option<ByteRange> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let (least, most) = (bytes(least)?, bytes(most)?);
        (least <= most).then_some(ByteRange(least..=most))
    }
}

impl FromText for Rate {
    const FORM: &'static str = "a rate like 1 per 5s";
    fn from_text(text: &str) -> Option<Rate> {
        let (count, per) = text.split_once(" per ")?;
        let rate = Rate { count: count.parse().ok()?, per: Time::from_text(per)?.0 };
        (rate.count > 0 && !rate.per.is_zero()).then_some(rate)
    }
}

impl FromText for Within {
    const FORM: &'static str = "\"full within 120s of the last fault\"";
    fn from_text(text: &str) -> Option<Within> {
        Time::from_text(text.strip_prefix("full within ")?.strip_suffix(" of the last fault")?).map(|time| Within(time.0))
    }
}

impl FromText for BackWithin {
    const FORM: &'static str = "\"back within 10s of the last fault\"";
    fn from_text(text: &str) -> Option<BackWithin> {
        Time::from_text(text.strip_prefix("back within ")?.strip_suffix(" of the last fault")?).map(|time| BackWithin(time.0))
    }
}

impl FromText for Fault {
    const FORM: &'static str = "the name of a fault like kill, power-cut, drive-gone or bit-rot";
    fn from_text(text: &str) -> Option<Fault> {
        Fault::ALL.iter().copied().find(|fault| fault.name() == text)
    }
}

impl FromText for Target {
    const FORM: &'static str =
        "a target like \"one node\", \"2 drives\", \"all nodes\", \"drives that hold shards\" or \"the root leader\"";
    fn from_text(text: &str) -> Option<Target> {
        match text {
            "drives that hold shards" => return Some(Target::DrivesThatHoldShards),
            "the root leader" => return Some(Target::RootLeader),
            _ => {}
        }
        let (count, unit) = text.split_once(' ')?;
        let unit = match unit {
            "drive" | "drives" => Unit::Drive,
            "node" | "nodes" => Unit::Node,
            "zone" | "zones" => Unit::Zone,
            _ => return None,
        };
        match count {
            "all" => Some(Target::All(unit)),
            "one" => Some(Target::Some(1, unit)),
            "two" => Some(Target::Some(2, unit)),
            "three" => Some(Target::Some(3, unit)),
            number => number.parse().ok().filter(|count| *count > 0).map(|count| Target::Some(count, unit)),
        }
    }
}

/// `1`, `64KiB`, `1MiB`, `5GiB`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match &text[digits..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

fn text<'de, T: FromText, D: serde::Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Visitor<T>(std::marker::PhantomData<T>);
    impl<T: FromText> serde::de::Visitor<'_> for Visitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::FORM)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            T::from_text(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_str(Visitor(std::marker::PhantomData))
}

fn some<'de, T: FromText, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    text(deserializer).map(Some)
}

fn scheme<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Scheme, D::Error> {
    struct Written(Scheme);
    impl FromText for Written {
        const FORM: &'static str = "a scheme like rs(4,2) or replicas(3)";
        fn from_text(text: &str) -> Option<Written> {
            if let Some(n) = text.strip_prefix("replicas(").and_then(|rest| rest.strip_suffix(')')) {
                return n.parse().ok().filter(|n| *n > 0).map(|n| Written(Scheme::Replicas { n }));
            }
            let (k, m) = text.strip_prefix("rs(")?.strip_suffix(')')?.split_once(',')?;
            let (k, m) = (k.trim().parse().ok()?, m.trim().parse().ok()?);
            (k > 0 && m > 0 && usize::from(k) + usize::from(m) <= protocol::limits::SLOTS_MAX)
                .then_some(Written(Scheme::ReedSolomon { k, m }))
        }
    }
    text::<Written, D>(deserializer).map(|written| written.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../../chaos-scenarios/smoke.toml");

    fn refused(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        Scenario::parse("x", &GOOD.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn smoke_is_read_as_written() {
        let smoke = Scenario::parse("smoke", GOOD).unwrap();
        assert!(smoke.claim.starts_with("whatever is killed") && smoke.claim.ends_with("half there."));
        assert_eq!((smoke.cluster.nodes(), smoke.cluster.scheme), (6, Scheme::ReedSolomon { k: 4, m: 2 }));
        assert_eq!(smoke.workloads[0].object_bytes, 1..=96 << 10);
        let Nemesis { when, fault, target, lasts, budget } = &smoke.nemeses[0];
        let rate = Rate { count: 1, per: Duration::from_secs(4) };
        assert_eq!(*when, When::During { from: Duration::from_secs(2), until: Duration::from_secs(18), rate });
        assert_eq!((*fault, *target, *budget), (Fault::Kill, Target::Some(1, Unit::Node), Budget::Within));
        assert_eq!(*lasts, Some(Duration::from_secs(1)..=Duration::from_secs(3)));
        assert!(smoke.expect.linearizable && smoke.expect.never_lost && smoke.expect.not_judged().is_empty());
        assert_eq!(rate.expected_in(Duration::from_secs(16)), 4.0);
    }

    #[test]
    fn unknown_keys_and_values_are_refused_with_their_line() {
        assert_eq!(refused("clients = 6", "clents = 6").split_once(", expected").unwrap().0, "scenario x: line 14: unknown field `clents`");
        assert!(refused("zones = 3", "zones = 3\ncolour = 1").contains("line 8: unknown field `colour`"));
        let fault = refused("fault  = \"kill\"", "fault  = \"explode\"");
        assert!(fault.contains("line 22") && fault.contains("explode"), "{fault}");
        assert!(refused("until = \"20s\"", "until = \"20 s\"").contains("line 18"));
        assert!(refused("never lost", "mostly kept").contains("mostly kept"));
        assert!(refused("\"I1\"", "\"I13\"").contains("line 3: there is no invariant I13"));
        assert!(refused("# Claim: ", "# ").contains("claim"));
        assert!(refused("rs(4,2)", "rs(14,4)").contains("needs 18 drives, the cluster has 12"));
        assert!(refused("rate   = \"1 per 4s\"\n", "").contains("kill: either"));
    }

    #[test]
    fn what_is_not_judged_yet_is_named() {
        let text = format!("{GOOD}redundancy = \"full within 120s of the last fault\"\n");
        assert_eq!(Scenario::parse("x", &text).unwrap().expect.not_judged(), ["redundancy"]);
    }

    #[test]
    fn every_scenario_in_the_repository_parses() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../chaos-scenarios");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                Scenario::parse(&path.display().to_string(), &std::fs::read_to_string(&path).unwrap()).unwrap();
            }
        }
    }
}
