//! [`Cluster`] and [`Knobs`]: what a scenario runs on.

use std::ops::RangeInclusive;
use std::time::Duration;

use protocol::Scheme;
use serde::Deserialize;
use toml::Spanned;

use super::text::{self, ByteRange, Time, TimeRange};

/// Shortest day of lifecycles.
const DAY_MIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunsOn {
    Sim,
    Processes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub zones: usize,
    pub nodes_per_zone: usize,
    pub drives_per_node: usize,
    pub scheme: Scheme,
}

impl Cluster {
    /// All nodes.
    pub fn nodes(&self) -> usize {
        self.zones * self.nodes_per_zone
    }
}

/// What a seed otherwise draws, or leaves at its default. A claim that needs one of these says so; all others do not.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Knobs {
    /// Metadata partitions.
    pub partitions: Option<u32>,
    /// Bytes of an object that one blob holds.
    pub blob_bytes: Option<u64>,
    /// Objects up to this size lie in their record.
    pub inline_bytes_max: Option<u64>,
    /// Bytes of objects that a gateway holds at a time.
    pub gateway_bytes_max: Option<u64>,
    /// Capacity of a drive.
    pub drive_bytes: Option<u64>,
    /// Bytes of a segment of the log of a drive's replicas.
    pub log_segment_bytes: Option<u64>,
    /// Bytes of that log that a replica keeps behind its checkpoint for others who lag: one who lacks more takes a snapshot.
    pub log_tail_bytes: Option<u64>,
    /// Bytes of applied commands after which a replica makes its state durable.
    pub checkpoint_bytes: Option<u64>,
    /// Bytes of memory that a node has for pages of its replicas' databases, at most; half a MiB for each replica at least.
    pub cache_bytes: Option<u64>,
    /// Of a link, one way.
    pub latency: Option<RangeInclusive<Duration>>,
    /// Length of the days of lifecycles. Some buckets have rules then: all that is in them expires after a day.
    pub day: Option<Duration>,
    /// An operator makes and ends identities of S3 all the time.
    pub identities: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterTable {
    zones: Spanned<usize>,
    nodes_per_zone: Spanned<usize>,
    drives_per_node: Spanned<usize>,
    #[serde(deserialize_with = "spanned_scheme")]
    scheme: Spanned<Scheme>,
}

fn spanned_scheme<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Spanned<Scheme>, D::Error> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Written(#[serde(deserialize_with = "text::scheme")] Scheme);
    let written = Spanned::<Written>::deserialize(deserializer)?;
    let span = written.span();
    Ok(Spanned::new(span, written.into_inner().0))
}

impl ClusterTable {
    /// Where and why it makes no sense.
    pub fn unsound(&self) -> Option<(usize, String)> {
        let sizes = [("zones", &self.zones), ("nodes_per_zone", &self.nodes_per_zone), ("drives_per_node", &self.drives_per_node)];
        for (name, size) in sizes {
            if !(1..=100).contains(size.get_ref()) {
                return Some((size.span().start, format!("{name} is between 1 and 100")));
            }
        }
        let drives: usize = sizes.iter().map(|(_, size)| *size.get_ref()).product();
        let scheme = *self.scheme.get_ref();
        let reason = || format!("{scheme} needs {} drives, the cluster has {drives}", scheme.total());
        (drives < scheme.total()).then(|| (self.scheme.span().start, reason()))
    }
}

impl From<ClusterTable> for Cluster {
    fn from(table: ClusterTable) -> Cluster {
        Cluster {
            zones: table.zones.into_inner(),
            nodes_per_zone: table.nodes_per_zone.into_inner(),
            drives_per_node: table.drives_per_node.into_inner(),
            scheme: table.scheme.into_inner(),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct KnobsTable {
    partitions: Option<Spanned<u32>>,
    blob_bytes: Option<Spanned<ByteRange>>,
    inline_bytes_max: Option<Spanned<ByteRange>>,
    gateway_bytes_max: Option<Spanned<ByteRange>>,
    drive_bytes: Option<Spanned<ByteRange>>,
    log_segment_bytes: Option<Spanned<ByteRange>>,
    log_tail_bytes: Option<Spanned<ByteRange>>,
    checkpoint_bytes: Option<Spanned<ByteRange>>,
    cache_bytes: Option<Spanned<ByteRange>>,
    latency: Option<TimeRange>,
    day: Option<Spanned<Time>>,
    #[serde(default)]
    identities: bool,
}

impl KnobsTable {
    /// Where and why it makes no sense.
    pub fn unsound(&self) -> Option<(usize, String)> {
        if let Some(partitions) = &self.partitions
            && !(1..=1000).contains(partitions.get_ref())
        {
            return Some((partitions.span().start, "partitions is between 1 and 1000".to_owned()));
        }
        if let Some(day) = &self.day
            && day.get_ref().0 < DAY_MIN
        {
            return Some((day.span().start, "a day has ten seconds at least: cluster time goes on so often".to_owned()));
        }
        let of_objects = [&self.blob_bytes, &self.inline_bytes_max, &self.gateway_bytes_max, &self.drive_bytes];
        let of_replicas = [&self.log_segment_bytes, &self.log_tail_bytes, &self.checkpoint_bytes, &self.cache_bytes];
        let wide = of_objects.into_iter().chain(of_replicas).flatten().find(|size| size.get_ref().0.start() != size.get_ref().0.end());
        wide.map(|size| (size.span().start, "one size, not a range".to_owned()))
    }
}

impl From<KnobsTable> for Knobs {
    fn from(table: KnobsTable) -> Knobs {
        let one = |size: Option<Spanned<ByteRange>>| size.map(|size| *size.into_inner().0.start());
        Knobs {
            partitions: table.partitions.map(Spanned::into_inner),
            blob_bytes: one(table.blob_bytes),
            inline_bytes_max: one(table.inline_bytes_max),
            gateway_bytes_max: one(table.gateway_bytes_max),
            drive_bytes: one(table.drive_bytes),
            log_segment_bytes: one(table.log_segment_bytes),
            log_tail_bytes: one(table.log_tail_bytes),
            checkpoint_bytes: one(table.checkpoint_bytes),
            cache_bytes: one(table.cache_bytes),
            latency: table.latency.map(|latency| latency.0),
            day: table.day.map(|day| day.into_inner().0),
            identities: table.identities,
        }
    }
}
