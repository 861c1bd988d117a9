//! Words that cross a wire or reach a drive: ids, limits, layouts, records.
//!
//! Everything here is plain data with a version. Nothing here does I/O, reads a clock or draws randomness.
//! Encoding is [postcard](https://postcard.jamesmunns.com/wire-format.html) behind a leading format version
//! byte (see [`wire`]); formats that live on drives byte by byte are documented where they are written
//! (`drive`, `consensus`).

pub mod cluster;
pub mod ids;
pub mod layout;
pub mod limits;
pub mod record;
pub mod wire;

pub use cluster::{ClusterMap, Drive, DriveState, Node, Zone};
pub use ids::*;
pub use layout::{Scheme, SlotPlace, Volume, VolumeState};
pub use record::{BlobRef, Body, Checksum, ChecksumKind, Record};
