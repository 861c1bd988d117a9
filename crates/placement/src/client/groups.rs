//! What an operator asks of groups and lost drives.

use super::Client;
use crate::Error;
use crate::commands::{Command, Query, Reply};
use crate::root::groups::{Group, PAGE_MAX};
use crate::service::unexpected;
use protocol::{DriveId, GroupId, ROOT};
use runtime::time::Instant;

impl Client {
    /// The drive will not come back with what it held: the root's leader replaces its replicas. For good; said twice, it is
    /// said once.
    pub async fn lose_drive(&self, drive: DriveId, deadline: Instant) -> Result<(), Error> {
        match self.command(Command::LoseDrive { drive }, deadline).await? {
            (_, Reply::Done) => Ok(()),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Drives that were lost.
    pub async fn lost_drives(&self, deadline: Instant) -> Result<Vec<DriveId>, Error> {
        match self.query(Query::LostDrives, deadline).await? {
            (_, Reply::Drives(drives)) => Ok(drives),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// All groups, the root group first.
    pub async fn groups(&self, deadline: Instant) -> Result<Vec<Group>, Error> {
        let mut groups: Vec<Group> = Vec::new();
        loop {
            let from = groups.last().map_or(ROOT, |last| GroupId(last.group.0 + 1));
            match self.query(Query::Groups { from, max: PAGE_MAX }, deadline).await? {
                (_, Reply::Groups(page)) if page.is_empty() => return Ok(groups),
                (_, Reply::Groups(page)) => groups.extend(page),
                (_, other) => return Err(unexpected(&other)),
            }
        }
    }
}
