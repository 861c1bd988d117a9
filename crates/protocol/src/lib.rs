#![doc = include_str!("../README.md")]

pub mod cluster;
pub mod ids;
pub mod layout;
pub mod lifecycle;
pub mod limits;
pub mod record;
pub mod wire;

pub use cluster::{ClusterMap, Drive, DriveState, Node, Zone};
pub use ids::*;
pub use layout::{Scheme, SlotPlace, Volume, VolumeState};
pub use lifecycle::Lifecycle;
pub use record::{BlobRef, Body, Checksum, ChecksumKind, Marker, Record, Version, VersionId, Versioning};
