//! [`Fault`] by its name: whether it ends, what it strikes, and whether real processes can receive it.

use serde::{Deserialize, Serialize};

use super::text::{FromText, from_text};

/// What kind of thing a fault strikes: which targets it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strikes {
    /// Nodes: some, all, those of zones, or the one that leads or that is there.
    Nodes,
    /// Links between nodes, or those of the clients.
    Links,
    /// All nodes or all zones, in an arrangement of them.
    Arrangement,
    /// Drives: some, all, those that hold something, or those of the node that leads or that is there.
    Drives,
    /// Whoever leads a group.
    Leaders,
    /// A volume.
    Volumes,
    /// All metadata partitions.
    Partitions,
}

/// What else holds of a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Property {
    Ends,
    Processes,
}

/// Declares the faults, so that name and variant cannot part.
macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $strikes:ident $(, $property:ident)*;)*) => {
        /// A fault by its name, which is also what it is in JSON. Whoever runs a scenario refuses by name those that it
        /// cannot produce.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $variant,)* }

        impl Fault {
            pub const ALL: &[Fault] = &[$(Fault::$variant,)*];

            /// As in files.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)* }
            }

            /// Which targets it takes.
            pub fn strikes(self) -> Strikes {
                match self { $(Fault::$variant => Strikes::$strikes,)* }
            }

            /// Whether it ends by being healed, and so takes `lasts`.
            pub fn ends(self) -> bool {
                self.properties().contains(&Property::Ends)
            }

            /// Whether real processes can receive it: what a signal or a change of folders does. The rest needs
            /// simulated drives, clocks or links.
            pub fn strikes_processes(self) -> bool {
                self.properties().contains(&Property::Processes)
            }

            fn properties(self) -> &'static [Property] {
                match self { $(Fault::$variant => &[$(Property::$property),*],)* }
            }
        }
    };
}

faults! {
    /// The process dies; what it wrote stays in the kernel, and peers are told.
    Kill = "kill", Nodes, Ends, Processes;
    /// The process dies, and peers hear nothing.
    KillSilently = "kill-silently", Nodes, Ends;
    /// Process and kernel die: unsynced writes are kept, dropped or torn.
    PowerCut = "power-cut", Nodes, Ends;
    /// A power cut while writes are under way at the drives.
    PowerCutMidWrite = "power-cut-mid-write", Nodes, Ends;
    /// The process stands still.
    Pause = "pause", Nodes, Ends, Processes;
    /// Orderly stop and start, one after another.
    RollingRestart = "rolling-restart", Nodes, Processes;
    /// A rolling restart in which each node comes back with the next program.
    RollingUpgrade = "rolling-upgrade", Nodes;

    /// The struck nodes are taken for lost for good, and groups that had most of their voters there are founded anew by their operator from what
    /// the other nodes have, which stand still meanwhile. After its time the lost nodes come back with all that they had, one after another.
    GroupsRecovered = "groups-recovered", Nodes, Ends;

    /// Between the struck nodes and all others, both directions are silent.
    Partition = "partition", Links, Ends;
    /// In one direction only, see `side`.
    AsymmetricPartition = "asymmetric-partition", Links, Ends;
    /// Each node reaches its neighbours in a ring, and no other.
    Ring = "ring", Arrangement, Ends;
    /// Two halves that reach each other only over one node.
    Bridge = "bridge", Arrangement, Ends;
    /// A partition that comes and goes.
    Flapping = "flapping", Links, Ends;
    /// The struck nodes are cut off one after another, and come back in another order.
    SwizzleClog = "swizzle-clog", Nodes, Ends;
    /// Slow and lossy links.
    BadNetwork = "bad-network", Links, Ends;
    /// Little bandwidth, much latency.
    SlowLink = "slow-link", Links, Ends;
    /// Every connection of the struck is reset.
    ResetConnections = "reset-connections", Links;
    /// New connections are long in being accepted.
    SlowAccept = "slow-accept", Nodes, Ends;
    /// Clients and the struck nodes do not reach each other.
    ClientLinksCut = "client-links-cut", Links, Ends;

    /// The clock is off by a constant.
    ClockSkew = "clock-skew", Nodes, Ends;
    /// The clock runs too fast or too slow.
    ClockDrift = "clock-drift", Nodes, Ends;
    /// The clock jumps, forward or back.
    ClockJump = "clock-jump", Nodes;
    /// The clock stands still.
    ClockFreeze = "clock-freeze", Nodes, Ends;

    /// The folder or device is gone for good.
    DriveGone = "drive-gone", Drives, Processes;
    DriveFull = "drive-full", Drives, Ends;
    /// A hundred times slower.
    DriveSlow = "drive-slow", Drives, Ends;
    /// Syncs do not come back.
    DriveStuck = "drive-stuck", Drives, Ends;
    /// A sync fails, and the dirty pages are dropped.
    SyncError = "sync-error", Drives;
    /// A sector cannot be read.
    SectorError = "sector-error", Drives;
    /// Bytes at rest change.
    BitRot = "bit-rot", Drives, Processes;
    /// Entries rot in the logs of the struck drives, committed ones, and no two of them the same.
    LogRot = "log-rot", Drives;
    /// The process dies, and all that was written to the log of the struck drive rots.
    LogRuined = "log-ruined", Drives;
    /// Pages of a database of a replica on the struck drive rot, while its process runs or while it is dead for a moment.
    StateRot = "state-rot", Drives;
    /// The process dies, and entries of the last batch in the node's logs rot.
    LastBatchRot = "last-batch-rot", Nodes, Ends;
    /// A write lands elsewhere.
    MisdirectedWrite = "misdirected-write", Drives;
    /// A read gives bytes from elsewhere.
    MisdirectedRead = "misdirected-read", Drives;
    /// A write is acknowledged and never done.
    LostWrite = "lost-write", Drives;
    /// An earlier image of a drive comes back.
    OldDriveCopy = "old-drive-copy", Drives, Processes;
    /// One drive is mounted at a second place as well.
    DriveMountedTwice = "drive-mounted-twice", Drives, Ends, Processes;
    /// Two drives change places.
    DrivesSwapped = "drives-swapped", Drives, Processes;

    /// The operator says that a drive will not come back with what it held, whether that is so or not: its replicas of
    /// groups are replaced, for good.
    DriveDeclaredLost = "drive-declared-lost", Drives;

    /// The leader hands over.
    LeaderTransfer = "leader-transfer", Leaders;
    /// A volume is sealed and its slots are fenced, as all that rewrites it begins.
    VolumeSealed = "volume-sealed", Volumes;
    /// Writes like those of a gateway that was away for long: to buckets that were never opened where they go, and to keys
    /// that lie elsewhere.
    StrayCommands = "stray-commands", Partitions;
    /// All blobs that lie on drives and that no record names are settled: from then on none may ever be named.
    OrphansSettled = "orphans-settled", Partitions;
    /// Commands that were applied arrive again, in their own sessions, as if the network had kept a copy of them.
    LateDuplicates = "late-duplicates", Partitions;
}

from_text!(Fault);

impl FromText for Fault {
    const FORM: &'static str = "the name of a fault like kill, power-cut, drive-gone or bit-rot";
    fn from_text(text: &str) -> Option<Fault> {
        Fault::ALL.iter().copied().find(|fault| fault.name() == text)
    }
}

impl Serialize for Fault {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Which direction of an asymmetric fault is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The struck hear nobody.
    In,
    /// Nobody hears the struck.
    Out,
}

/// Whether all that was acknowledged must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Budget {
    #[default]
    Within,
    Beyond,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_come_back() {
        for fault in Fault::ALL {
            assert_eq!(Fault::from_text(fault.name()), Some(*fault));
            let json = serde_json::to_string(fault).unwrap();
            assert_eq!(json, format!("\"{}\"", fault.name()));
            assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), *fault);
        }
        assert_eq!(Fault::ALL.len(), 46);
    }

    #[test]
    fn what_ends_and_what_processes_receive() {
        let named =
            |holds: fn(Fault) -> bool| Fault::ALL.iter().copied().filter(|fault| holds(*fault)).map(Fault::name).collect::<Vec<_>>();
        assert_eq!(
            named(|fault| !fault.ends()),
            [
                "rolling-restart",
                "rolling-upgrade",
                "reset-connections",
                "clock-jump",
                "drive-gone",
                "sync-error",
                "sector-error",
                "bit-rot",
                "log-rot",
                "log-ruined",
                "state-rot",
                "misdirected-write",
                "misdirected-read",
                "lost-write",
                "old-drive-copy",
                "drives-swapped",
                "drive-declared-lost",
                "leader-transfer",
                "volume-sealed",
                "stray-commands",
                "orphans-settled",
                "late-duplicates"
            ]
        );
        assert_eq!(
            named(Fault::strikes_processes),
            ["kill", "pause", "rolling-restart", "drive-gone", "bit-rot", "old-drive-copy", "drive-mounted-twice", "drives-swapped"]
        );
    }
}
