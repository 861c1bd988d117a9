//! Volumes in the root group.
//!
//! Invariants: an id is given out once; a volume has as many slots as its scheme, on distinct drives that were known
//! and In when it was made; it takes blobs only after every slot was reported durable; an epoch only rises.

use super::{Counters, Verdict, decode_row, map, numbered};
use crate::commands::{Reply, Unsealed};
use crate::{Bootstrap, Error};
use consensus::{Rows, RowsMut};
use protocol::{DriveState, Epoch, Generation, Scheme, SlotPlace, Volume, VolumeId, VolumeState, wire};
use std::collections::BTreeSet;

/// Most volumes that are not sealed: bounds what a leader holds and what one query returns.
pub const UNSEALED_MAX: usize = 4096;

const PREFIX: &[u8] = b"volume/";
/// Index of volumes that are Building or Open; empty values.
const UNSEALED: &[u8] = b"unsealed/";
const UNSEALED_END: &[u8] = b"unsealed0";

pub(super) fn create(
    rows: &mut RowsMut<'_>,
    counters: &mut Counters,
    scheme: Scheme,
    slots: Vec<SlotPlace>,
    at_risk: bool,
) -> Result<Verdict, Error> {
    let Some(bootstrap) = decode_row::<Bootstrap>(rows.get(map::BOOTSTRAP)) else {
        return Err(Error::Unavailable("the cluster is not founded yet".into()));
    };
    check(&bootstrap, scheme, &slots).map_err(Error::Refused)?;
    let mut unsealed = 0;
    rows.scan(UNSEALED, UNSEALED_END, &mut |_, _| {
        unsealed += 1;
        unsealed < UNSEALED_MAX
    });
    if unsealed >= UNSEALED_MAX {
        return Err(Error::Refused(format!("{UNSEALED_MAX} volumes are building or open, which is the limit")));
    }
    counters.volume += 1;
    counters.volumes_at_risk += u64::from(at_risk);
    let (id, state) = (VolumeId(counters.volume), VolumeState::Building);
    let volume = Volume { id, scheme, epoch: Epoch(1), generation: Generation(0), state, slots, at_risk };
    store(rows, &volume);
    if runtime::planted("volume-opens-before-built") {
        // Others write before its slots are durable; if its builder dies now, it is open without slots.
        store(rows, &Volume { state: VolumeState::Open, ..volume.clone() });
    }
    rows.put(&numbered(UNSEALED, id.0), &[]);
    Ok(Verdict::Changed(Reply::Volume(volume)))
}

/// Repeating it is harmless; a volume that was sealed meanwhile stays sealed.
pub(super) fn built(rows: &mut RowsMut<'_>, id: VolumeId) -> Result<Verdict, Error> {
    let volume = find_mut(rows, id).ok_or(Error::NoSuchVolume)?;
    match volume.state {
        VolumeState::Building => {
            let volume = Volume { state: VolumeState::Open, ..volume };
            store(rows, &volume);
            Ok(Verdict::Changed(Reply::Volume(volume)))
        }
        VolumeState::Open => Ok(Verdict::Unchanged(Reply::Volume(volume))),
        VolumeState::Sealed => {
            runtime::probe!("placement: a volume was sealed before it was built");
            Err(Error::Refused(format!("volume {id} was sealed before it was built; ask for another")))
        }
    }
}

/// Answers with the volume as it is afterwards: also under another epoch, where nothing is changed (I11).
pub(super) fn seal(rows: &mut RowsMut<'_>, counters: &mut Counters, id: VolumeId, epoch: Epoch) -> Result<Verdict, Error> {
    let volume = find_mut(rows, id).ok_or(Error::NoSuchVolume)?;
    if volume.epoch != epoch || volume.state == VolumeState::Sealed {
        return Ok(Verdict::Unchanged(Reply::Volume(volume)));
    }
    let volume = Volume { state: VolumeState::Sealed, epoch: Epoch(epoch.0 + 1), ..volume };
    counters.volumes_sealed += 1;
    store(rows, &volume);
    rows.remove(&numbered(UNSEALED, id.0));
    Ok(Verdict::Changed(Reply::Volume(volume)))
}

pub(super) fn query(rows: &Rows<'_>, id: VolumeId) -> Result<Reply, Error> {
    decode_row(rows.get(&numbered(PREFIX, id.0))).map(Reply::Volume).ok_or(Error::NoSuchVolume)
}

pub(super) fn query_unsealed(rows: &Rows<'_>, counters: &Counters) -> Reply {
    let mut keys = Vec::new();
    rows.scan(UNSEALED, UNSEALED_END, &mut |key, _| {
        keys.push([PREFIX, &key[UNSEALED.len()..]].concat());
        keys.len() < UNSEALED_MAX
    });
    let volumes = keys.iter().map(|key| decode_row(rows.get(key)).expect("an index row stands for a volume row")).collect();
    let (sealed, at_risk) = (counters.volumes_sealed, counters.volumes_at_risk);
    Reply::Unsealed(Unsealed { volumes, created: counters.volume, sealed, at_risk })
}

/// The leader chose by what it believed; what is believed here is the state.
fn check(bootstrap: &Bootstrap, scheme: Scheme, slots: &[SlotPlace]) -> Result<(), String> {
    if scheme.total() == 0 || scheme.total() > protocol::limits::SLOTS_MAX || scheme.data() == 0 {
        return Err(format!("{scheme} is not a scheme"));
    }
    if slots.len() != scheme.total() {
        return Err(format!("{} slots for {scheme}", slots.len()));
    }
    let mut used = BTreeSet::new();
    for slot in slots {
        let Some((node, drive)) = bootstrap.map.drive(slot.drive) else {
            return Err(format!("drive {} is not known", slot.drive));
        };
        if node.id != slot.node {
            return Err(format!("drive {} is on node {}, not {}", slot.drive, node.id, slot.node));
        }
        if drive.state != DriveState::In {
            return Err(format!("drive {} ({}) is out", slot.drive, drive.label));
        }
        if !used.insert(slot.drive) {
            return Err(format!("two slots on drive {} ({})", slot.drive, drive.label));
        }
    }
    Ok(())
}

pub(crate) fn find_mut(rows: &RowsMut<'_>, id: VolumeId) -> Option<Volume> {
    decode_row(rows.get(&numbered(PREFIX, id.0)))
}

fn store(rows: &mut RowsMut<'_>, volume: &Volume) {
    rows.put(&numbered(PREFIX, volume.id.0), &wire::encode(volume));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, Query};
    use crate::root::testing::{Model, bootstrap};
    use protocol::{DriveId, NodeId};

    fn rs42() -> Scheme {
        "rs(4,2)".parse().unwrap()
    }

    fn slots(count: u16) -> Vec<SlotPlace> {
        (0..count).map(|n| SlotPlace { node: NodeId(1), drive: DriveId::at_bootstrap(NodeId(1), n) }).collect()
    }

    fn create(slots: Vec<SlotPlace>) -> Command {
        Command::CreateVolume { scheme: rs42(), slots, at_risk: false }
    }

    fn volume(model: &mut Model, command: Command) -> Volume {
        match model.apply(command).result {
            Ok(Reply::Volume(volume)) => volume,
            other => panic!("{other:?}"),
        }
    }

    fn unsealed(model: &Model) -> Unsealed {
        match model.query(Query::Unsealed).result {
            Ok(Reply::Unsealed(unsealed)) => unsealed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_volume_is_built_then_open_then_sealed_under_a_raised_epoch() {
        let mut model = Model::founded(1, 1, 6);
        let made = volume(&mut model, create(slots(6)));
        assert_eq!((made.id, made.epoch, made.generation, made.state), (VolumeId(1), Epoch(1), Generation(0), VolumeState::Building));
        let open = volume(&mut model, Command::VolumeBuilt { volume: made.id });
        assert_eq!((open.state, open.epoch), (VolumeState::Open, Epoch(1)));
        assert_eq!(volume(&mut model, Command::VolumeBuilt { volume: made.id }), open);
        assert_eq!(unsealed(&model).volumes, std::slice::from_ref(&open));
        let sealed = volume(&mut model, Command::SealVolume { volume: made.id, epoch: Epoch(1) });
        assert_eq!((sealed.state, sealed.epoch), (VolumeState::Sealed, Epoch(2)));
        assert_eq!(model.query(Query::Volume { volume: made.id }).result, Ok(Reply::Volume(sealed)));
        assert_eq!(unsealed(&model), Unsealed { volumes: vec![], created: 1, sealed: 1, at_risk: 0 });
    }

    #[test]
    fn sealing_under_another_epoch_or_again_changes_nothing() {
        let mut model = Model::founded(1, 1, 6);
        let made = volume(&mut model, create(slots(6)));
        assert_eq!(volume(&mut model, Command::SealVolume { volume: made.id, epoch: Epoch(0) }), made);
        let sealed = volume(&mut model, Command::SealVolume { volume: made.id, epoch: Epoch(1) });
        assert_eq!(volume(&mut model, Command::SealVolume { volume: made.id, epoch: Epoch(1) }), sealed);
        assert_eq!(volume(&mut model, Command::SealVolume { volume: made.id, epoch: Epoch(2) }), sealed);
        assert!(matches!(model.apply(Command::VolumeBuilt { volume: made.id }).result, Err(Error::Refused(_))));
        assert_eq!(model.apply(Command::VolumeBuilt { volume: VolumeId(9) }).result, Err(Error::NoSuchVolume));
        assert_eq!(unsealed(&model).sealed, 1);
    }

    #[test]
    fn volume_ids_are_not_reused_after_sealing_and_refusals_take_none() {
        let mut model = Model::founded(1, 1, 6);
        for id in 1..=5 {
            let made = volume(&mut model, create(slots(6)));
            assert_eq!(made.id, VolumeId(id));
            volume(&mut model, Command::SealVolume { volume: made.id, epoch: made.epoch });
            assert!(model.apply(create(slots(5))).result.is_err());
        }
    }

    #[test]
    fn slots_on_one_drive_unknown_drives_and_wrong_nodes_are_refused() {
        let mut model = Model::founded(1, 1, 6);
        let mut twice = slots(6);
        twice[5] = twice[0];
        let mut unknown = slots(6);
        unknown[3].drive = DriveId(99);
        let mut elsewhere = slots(6);
        elsewhere[3].node = NodeId(2);
        for (bad, word) in [(twice, "two slots"), (unknown, "not known"), (elsewhere, "on node"), (slots(5), "5 slots")] {
            let Err(Error::Refused(why)) = model.apply(create(bad)).result else { panic!("accepted: {word}") };
            assert!(why.contains(word), "{why}");
        }
        let mut with_out = bootstrap(1, 1, 7);
        with_out.map.nodes[0].drives[2].state = DriveState::Out;
        let mut model = Model::default();
        model.apply(Command::Bootstrap(with_out)).result.unwrap();
        let Err(Error::Refused(why)) = model.apply(create(slots(6))).result else { panic!("accepted a drive that is out") };
        assert!(why.contains("/n1/d2"), "{why}");
    }

    #[test]
    fn the_bytes_of_a_volume_row_stay_as_documented() {
        let volume = Volume {
            id: VolumeId(5),
            scheme: "rs(2,1)".parse().unwrap(),
            epoch: Epoch(2),
            generation: Generation(0),
            state: VolumeState::Sealed,
            slots: vec![SlotPlace { node: NodeId(1), drive: DriveId(65536) }],
            at_risk: true,
        };
        assert_eq!(wire::encode(&volume), [1, 5, 0, 2, 1, 2, 0, 2, 1, 1, 0x80, 0x80, 4, 1]);
        assert_eq!(numbered(PREFIX, 258), b"volume/\0\0\0\0\0\0\x01\x02");
    }
}
