//! Where the replicas of groups are, as far as is known: what clients go by. Only ever replaced by something newer.

use crate::host::GroupSpec;
use crate::members::Members;
use protocol::GroupId;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// The newest configuration of each group that somebody told of. Being wrong costs a detour, never more: who is asked
/// in vain names others.
#[derive(Default)]
pub(crate) struct Directory {
    groups: Mutex<BTreeMap<GroupId, Members>>,
}

impl Directory {
    /// Groups as they were founded.
    pub(crate) fn of<'a>(specs: impl IntoIterator<Item = &'a GroupSpec>) -> Directory {
        let groups = specs.into_iter().map(|spec| (spec.group, Members::founding(spec))).collect();
        Directory { groups: Mutex::new(groups) }
    }

    pub(crate) fn members(&self, group: GroupId) -> Option<Members> {
        self.groups.lock().expect("no holder panics").get(&group).cloned()
    }

    /// Take in a configuration, if it is one of this group and newer than what is known. Groups that are not known stay so.
    pub(crate) fn learn(&self, group: GroupId, members: &Members) {
        if members.group != group || !members.is_sound() {
            tracing::warn!(%group, ?members, "a configuration that cannot be this group's was not taken in");
            return;
        }
        let mut groups = self.groups.lock().expect("no holder panics");
        if let Some(known) = groups.get_mut(&group).filter(|known| known.version < members.version) {
            *known = members.clone();
        }
    }
}
