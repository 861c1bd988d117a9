#![doc = include_str!("../README.md")]

pub mod client;
pub mod host;
pub mod inspect;
pub mod members;
pub mod refounding;
pub mod rows;

mod backend;
mod budget;
mod digest;
mod driver;
mod log;
mod manifest;
mod methods;
mod opening;
mod refetch;
mod replica;
mod session;
mod snapshot;
mod state;
mod store;
mod sums;
mod wire;

pub use budget::EntriesHeld;
pub use client::Client;
pub use digest::RowsDigest;
pub use host::{Bootstrap, GroupSpec, Host, HostDrive, ReplicaPlace, Settings};
pub use members::{Change, Members};
pub use rows::{Rows, RowsMut};

/// A deterministic state machine over ordered rows. Runs on every replica of its group.
///
/// `apply` must be a pure function of the rows and the command: no clock, no entropy, no I/O, no hash order.
/// Sessions, applied index, configuration and the rolling state hash (I9) are kept by this crate beside the rows.
pub trait StateMachine: Send + Sync + 'static {
    /// The newest version of commands and rows that this program knows, from 1 on. A group applies its commands at the version
    /// on which its members agreed ([`RowsMut::version`]); its leader raises that when all of them know a newer one. So what a
    /// version adds must be refused at the versions before it: some replicas do not know it yet.
    fn version(&self) -> u32 {
        1
    }

    /// Apply a committed command and return the reply for its proposer. Every command gets a reply, also one
    /// that does not decode.
    fn apply(&self, rows: &mut RowsMut<'_>, command: &[u8]) -> Vec<u8>;

    /// The group is founded anew from one replica that was left of it ([`refounding`]): others may have applied commands that these
    /// rows know nothing of, and told their outcomes. Numbers that must never be given out a second time have to be taken beyond any
    /// that could have been. Called once, in the transaction that founds the group anew; a function of the rows alone.
    fn refounded(&self, rows: &mut RowsMut<'_>);

    /// Answer a query on a snapshot of the rows that is at least as new as the query's arrival.
    fn query(&self, rows: &Rows<'_>, query: &[u8]) -> Vec<u8>;
}
