//! A bucket whose versioning somebody sets, one of its keys at a time: a stack of versions, of which one may be null.
//! Writes put a version on top; while versioning is not enabled it is null and takes the place of the null one before.
//! Nothing else goes but by its name. So every acknowledged version stays readable until it is deleted by name, the one
//! on top is current, their order is that of the writes, and a listing of versions shows them all.
//!
//! Versions of objects are told apart by their values, which are unique; markers by the deletion that made them.

use std::collections::{BTreeMap, BTreeSet};

use super::judge;
use crate::check::Violation;
use crate::check::register::Condition;
use crate::check::search::{Machine, Span};
use crate::history::{Action, History, ListedVersion, Operation, Outcome, Seen, Value};

/// As clients call the null version.
const NULL: &str = "null";

/// Buckets whose versioning somebody sets: no register explains their keys, and this model alone judges them.
pub(in crate::check) fn versioned(history: &History) -> BTreeSet<&str> {
    let sets = |operation: &&Operation| matches!(operation.action, Action::SetVersioning(_));
    history.operations.iter().filter(sets).map(|operation| operation.bucket.as_str()).collect()
}

/// Check every such bucket of `history`; none had versioning set before it began.
pub fn versions(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for bucket in versioned(history) {
        let own: Vec<&Operation> = history.operations.iter().filter(|operation| operation.bucket == bucket).collect();
        violations.extend(judge_setting(bucket, &own));
        let mut keys: BTreeSet<&str> = own.iter().map(|operation| operation.key.as_str()).filter(|key| !key.is_empty()).collect();
        for operation in &own {
            if let Outcome::Versions(page) = &operation.outcome {
                keys.extend(page.versions.iter().map(|version| version.key.as_str()));
            }
        }
        for key in keys {
            violations.extend(judge_key(bucket, key, &own));
        }
    }
    violations
}

/// The versioning of the bucket as it is set and asked for.
fn judge_setting(bucket: &str, own: &[&Operation]) -> Option<Violation> {
    let deed = |operation: &Operation| match (&operation.action, &operation.outcome) {
        (Action::SetVersioning(enabled), Outcome::Done | Outcome::Unknown(_)) => Some(Deed::Set(*enabled)),
        (Action::GetVersioning, Outcome::Versioning(seen)) => Some(Deed::Mode(mode(*seen))),
        _ => None,
    };
    search(&format!("versioning of bucket {bucket}"), own, deed)
}

fn judge_key(bucket: &str, key: &str, own: &[&Operation]) -> Option<Violation> {
    let object = format!("versions of {bucket}/{key}");
    let names = match Names::learn(key, own) {
        Ok(names) => names,
        Err(explanation) => return Some(Violation::Model { object, explanation }),
    };
    let concerns = |operation: &&&Operation| operation.key.is_empty() || operation.key == key || is_copied(key, operation);
    let whole = own.iter().filter(concerns).copied().collect::<Vec<_>>();
    search(&object, &whole, |operation| names.deed(key, operation))
}

/// Whether the operation copies a version of this key to another one.
fn is_copied(key: &str, operation: &Operation) -> bool {
    matches!(&operation.action, Action::CopyVersion { from, .. } if from == key && operation.key != key)
}

fn search(object: &str, operations: &[&Operation], deed: impl Fn(&Operation) -> Option<Deed>) -> Option<Violation> {
    let (mut kept, mut spans, mut deeds) = (Vec::new(), Vec::new(), Vec::new());
    for operation in operations {
        let Some(deed) = deed(operation) else { continue };
        let ended = if matches!(operation.outcome, Outcome::Unknown(_)) { None } else { operation.ended };
        kept.push(*operation);
        spans.push(Span { begun: operation.begun, ended });
        deeds.push(deed);
    }
    judge(object, &kept, &spans, &Stack(deeds), State::default())
}

fn mode(enabled: Option<bool>) -> Mode {
    match enabled {
        None => Mode::Unversioned,
        Some(true) => Mode::Enabled,
        Some(false) => Mode::Suspended,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Mode {
    #[default]
    Unversioned,
    Enabled,
    Suspended,
}

impl Mode {
    /// In which a write was made that was told this id.
    fn of(id: Option<&str>) -> Mode {
        match id {
            None => Mode::Unversioned,
            Some(NULL) => Mode::Suspended,
            Some(_) => Mode::Enabled,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Content {
    Object(Value),
    /// By the beginning of the deletion that made it.
    Marker(u64),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Item {
    content: Content,
    null: bool,
    /// By their number.
    tags: Option<u64>,
}

/// Which version is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Named {
    Null,
    Is(Content),
    /// A marker of a deletion of unknown outcome: any of those.
    SomeMarker,
}

/// A version as a listing shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shown {
    null: bool,
    named: Named,
    latest: bool,
}

/// What a page of a listing tells of the key.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Page {
    /// It goes on behind this version of the key.
    behind: Option<Named>,
    shown: Vec<Shown>,
    /// It goes beyond the key.
    whole: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Deed {
    Set(bool),
    Mode(Mode),
    /// In this mode, if the reply told it.
    Put {
        value: Value,
        condition: Option<Condition>,
        mode: Option<Mode>,
    },
    Failed(Condition),
    Delete {
        begun: u64,
        condition: Option<Condition>,
        mode: Option<Mode>,
    },
    DeleteNamed(Named),
    /// Its current object; with `null` if the reply told an id.
    Read {
        seen: Option<Value>,
        null: Option<bool>,
    },
    ReadNamed {
        named: Named,
        seen: Option<Value>,
    },
    List(Page),
    /// Of the version that is named, or of the current one; with `null` if the reply told its id.
    SetTags {
        named: Option<Named>,
        tags: Option<u64>,
        null: Option<bool>,
    },
    Tags {
        named: Option<Named>,
        tags: Option<u64>,
        null: Option<bool>,
    },
    NoTags(Option<Named>),
}

/// What version ids of one key mean.
#[derive(Default)]
struct Names<'a> {
    objects: BTreeMap<&'a str, Value>,
    markers: BTreeMap<&'a str, u64>,
}

impl<'a> Names<'a> {
    /// From all replies; an id means one version for ever, and a version has one id.
    fn learn(key: &str, own: &[&'a Operation]) -> Result<Names<'a>, String> {
        let mut names = Names::default();
        let mut ids: BTreeMap<Value, &str> = BTreeMap::new();
        let mut object = |names: &mut Names<'a>, id: &'a str, value: Value| {
            if id == NULL {
                return Ok(());
            }
            let (known, other) = (*names.objects.entry(id).or_insert(value), *ids.entry(value).or_insert(id));
            if known != value || other != id || names.markers.contains_key(id) {
                return Err(format!("version {id} is told to be {value:?}, and {known:?}; that one has the id {other}"));
            }
            Ok(())
        };
        for operation in own {
            let is_ours = operation.key == key;
            match (&operation.action, &operation.outcome) {
                (_, Outcome::Versions(page)) => {
                    for version in page.versions.iter().filter(|version| version.key == key) {
                        if let Some(value) = version.value {
                            object(&mut names, &version.id, value)?;
                        }
                    }
                }
                (Action::Delete | Action::DeleteIfMatches(_), Outcome::Made(Some(id))) if is_ours && id != NULL => {
                    let again = names.markers.insert(id, operation.begun).is_some();
                    if again || names.objects.contains_key(id.as_str()) {
                        return Err(format!("version {id} was given twice"));
                    }
                }
                (_, Outcome::Made(Some(id))) if is_ours => {
                    if let Some(value) = operation.writes() {
                        object(&mut names, id, value)?;
                    }
                }
                (_, Outcome::Found { seen: Seen::Value(value), version: Some(id) }) if is_ours => object(&mut names, id, *value)?,
                _ => {}
            }
        }
        Ok(names)
    }

    fn named(&self, id: &str) -> Named {
        match (self.objects.get(id), self.markers.get(id)) {
            _ if id == NULL => Named::Null,
            (Some(value), _) => Named::Is(Content::Object(*value)),
            (None, Some(begun)) => Named::Is(Content::Marker(*begun)),
            (None, None) => Named::SomeMarker,
        }
    }

    fn shown(&self, version: &ListedVersion) -> Shown {
        let named = match version.value {
            Some(value) => Named::Is(Content::Object(value)),
            None if version.id == NULL => Named::SomeMarker,
            None => self.named(&version.id),
        };
        Shown { null: version.id == NULL, named, latest: version.latest }
    }

    /// What an operation does to the key, or tells of it.
    fn deed(&self, key: &str, operation: &Operation) -> Option<Deed> {
        let told = |made: &Outcome| match made {
            Outcome::Made(id) => Some(Mode::of(id.as_deref())),
            _ => None,
        };
        let put = |value: Value, condition| match &operation.outcome {
            made @ (Outcome::Made(_) | Outcome::Unknown(_)) => Some(Deed::Put { value, condition, mode: told(made) }),
            Outcome::PreconditionFailed => condition.map(Deed::Failed),
            _ => None,
        };
        if is_copied(key, operation) {
            let Action::CopyVersion { version, value, .. } = &operation.action else { return None };
            let seen = match operation.outcome {
                Outcome::Made(_) => Some(*value),
                Outcome::Found { seen: Seen::Absent, .. } => None,
                _ => return None,
            };
            return Some(Deed::ReadNamed { named: self.named(version), seen });
        }
        match (&operation.action, &operation.outcome) {
            (Action::SetVersioning(enabled), Outcome::Done | Outcome::Unknown(_)) => Some(Deed::Set(*enabled)),
            (Action::Put(value), _) => put(*value, None),
            (Action::CopyVersion { value, .. }, _) => put(*value, None),
            (Action::Complete { if_absent, .. }, Outcome::Done) => {
                let condition = if_absent.then_some(Condition::Absent);
                Some(Deed::Put { value: operation.writes()?, condition, mode: Some(Mode::Unversioned) })
            }
            (Action::Complete { if_absent, .. }, _) => put(operation.writes()?, if_absent.then_some(Condition::Absent)),
            (Action::PutIfAbsent(value), _) => put(*value, Some(Condition::Absent)),
            (Action::PutIfMatches { value, expected }, _) => put(*value, Some(Condition::Matches(*expected))),
            (Action::Delete, made @ (Outcome::Made(_) | Outcome::Unknown(_))) => {
                Some(Deed::Delete { begun: operation.begun, condition: None, mode: told(made) })
            }
            (Action::DeleteIfMatches(expected), made @ (Outcome::Made(_) | Outcome::Unknown(_))) => {
                let condition = Some(Condition::Matches(*expected));
                Some(Deed::Delete { begun: operation.begun, condition, mode: told(made) })
            }
            (Action::DeleteIfMatches(expected), Outcome::PreconditionFailed) => Some(Deed::Failed(Condition::Matches(*expected))),
            (Action::DeleteVersion(id), Outcome::Made(_) | Outcome::Unknown(_)) => Some(Deed::DeleteNamed(self.named(id))),
            (Action::Get | Action::Head, Outcome::Found { seen: Seen::Value(value), version }) => {
                Some(Deed::Read { seen: Some(*value), null: version.as_ref().map(|id| id == NULL) })
            }
            (Action::Get | Action::Head, Outcome::Found { seen: Seen::Absent, .. } | Outcome::Read(Seen::Absent)) => {
                Some(Deed::Read { seen: None, null: None })
            }
            // The reading of every key at the end.
            (Action::Get, Outcome::Read(Seen::Value(value))) => Some(Deed::Read { seen: Some(*value), null: None }),
            (Action::GetVersion(id), Outcome::Found { seen: Seen::Value(value), .. }) => {
                Some(Deed::ReadNamed { named: self.named(id), seen: Some(*value) })
            }
            (Action::GetVersion(id), Outcome::Found { seen: Seen::Absent, .. }) => {
                Some(Deed::ReadNamed { named: self.named(id), seen: None })
            }
            (Action::SetTags { version, tags }, Outcome::Tagged(told)) => {
                let null = told.as_ref().map(|id| id == NULL);
                Some(Deed::SetTags { named: version.as_deref().map(|id| self.named(id)), tags: *tags, null })
            }
            (Action::SetTags { version, tags }, Outcome::Unknown(_)) => {
                Some(Deed::SetTags { named: version.as_deref().map(|id| self.named(id)), tags: *tags, null: None })
            }
            (Action::GetTags(version), Outcome::Tags { tags, version: told }) => {
                let null = told.as_ref().map(|id| id == NULL);
                Some(Deed::Tags { named: version.as_deref().map(|id| self.named(id)), tags: *tags, null })
            }
            (Action::SetTags { version, .. } | Action::GetTags(version), Outcome::Found { seen: Seen::Absent, .. }) => {
                Some(Deed::NoTags(version.as_deref().map(|id| self.named(id))))
            }
            (Action::ListVersions(list), Outcome::Versions(page)) => {
                let behind = match &list.behind {
                    Some(last) if last.key.as_str() > key => return None,
                    Some(last) if last.key == key => Some(self.shown(last).named),
                    _ => None,
                };
                let last = page.versions.last().filter(|_| page.truncated);
                if !key.starts_with(&list.prefix) || last.is_some_and(|last| last.key.as_str() < key) {
                    return None;
                }
                let shown = page.versions.iter().filter(|version| version.key == key).map(|version| self.shown(version)).collect();
                Some(Deed::List(Page { behind, shown, whole: last.is_none_or(|last| last.key != key) }))
            }
            _ => None,
        }
    }
}

/// Oldest first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct State {
    mode: Mode,
    items: Vec<Item>,
}

impl State {
    fn current(&self) -> Option<Value> {
        self.items.last().and_then(Item::value)
    }

    fn add(&self, content: Content) -> State {
        let null = self.mode != Mode::Enabled;
        let kept = self.items.iter().filter(|item| !(null && item.null)).copied();
        let tags = match content {
            Content::Object(value) => value.tags(),
            Content::Marker(_) => None,
        };
        State { mode: self.mode, items: kept.chain([Item { content, null, tags }]).collect() }
    }

    fn without(&self, named: Named) -> State {
        // A marker that nobody knows by name is not deleted by name.
        State { mode: self.mode, items: self.items.iter().filter(|item| named == Named::SomeMarker || !item.is(named)).copied().collect() }
    }

    /// Place of the object that is named, or of the current one.
    fn object(&self, named: Option<Named>) -> Option<usize> {
        let place = match named {
            None => self.items.len().checked_sub(1),
            Some(named) => self.items.iter().position(|item| item.is(named)),
        };
        place.filter(|place| self.items[*place].value().is_some())
    }

    /// Whether the page shows what stands.
    fn is_shown(&self, page: &Page) -> bool {
        let newest: Vec<&Item> = self.items.iter().rev().collect();
        let fits =
            |from: usize| {
                let rest = &newest[from..];
                let long_enough = if page.whole { rest.len() == page.shown.len() } else { rest.len() >= page.shown.len() };
                long_enough
                    && page.shown.iter().zip(rest).enumerate().all(|(index, (shown, item))| {
                        item.is(shown.named) && item.null == shown.null && shown.latest == (from + index == 0)
                    })
            };
        match page.behind {
            None => fits(0),
            Some(behind) => match newest.iter().position(|item| behind != Named::SomeMarker && item.is(behind)) {
                Some(place) => fits(place + 1),
                // It is gone: the page goes on where it stood.
                None => (0..=newest.len()).any(fits),
            },
        }
    }
}

impl Item {
    fn value(&self) -> Option<Value> {
        match self.content {
            Content::Object(value) => Some(value),
            Content::Marker(_) => None,
        }
    }

    fn is(&self, named: Named) -> bool {
        match named {
            Named::Null => self.null,
            Named::Is(content) => self.content == content,
            Named::SomeMarker => matches!(self.content, Content::Marker(_)),
        }
    }
}

struct Stack(Vec<Deed>);

impl Machine for Stack {
    type State = State;

    /// The reference model.
    fn step(&self, state: &State, operation: usize, _: usize) -> Option<State> {
        let in_mode = |mode: &Option<Mode>| mode.is_none_or(|mode| mode == state.mode);
        let fits = match &self.0[operation] {
            Deed::Set(enabled) => return Some(State { mode: mode(Some(*enabled)), items: state.items.clone() }),
            Deed::Put { value, condition, mode } => {
                let holds = in_mode(mode) && condition.is_none_or(|condition| condition.holds(state.current()));
                return holds.then(|| state.add(Content::Object(*value)));
            }
            Deed::Delete { mode, .. } if !in_mode(mode) => return None,
            Deed::Delete { condition: Some(condition), .. } if !condition.holds(state.current()) => return None,
            Deed::Delete { .. } if state.mode == Mode::Unversioned => return Some(State::default()),
            Deed::Delete { begun, .. } => return Some(state.add(Content::Marker(*begun))),
            Deed::DeleteNamed(named) => return Some(state.without(*named)),
            Deed::Mode(seen) => *seen == state.mode,
            Deed::Failed(condition) => !condition.holds(state.current()),
            Deed::Read { seen, null } => {
                *seen == state.current() && null.is_none_or(|null| state.items.last().is_some_and(|item| item.null == null))
            }
            Deed::ReadNamed { named, seen } => *seen == state.items.iter().find(|item| item.is(*named)).and_then(Item::value),
            Deed::List(page) => state.is_shown(page),
            Deed::SetTags { named, tags, null } => {
                let place = state.object(*named)?;
                let mut after = state.clone();
                after.items[place].tags = *tags;
                return null.is_none_or(|null| after.items[place].null == null).then_some(after);
            }
            Deed::Tags { named, tags, null } => {
                let item = state.items[state.object(*named)?];
                item.tags == *tags && null.is_none_or(|null| item.null == null)
            }
            Deed::NoTags(named) => state.object(*named).is_none(),
        };
        fits.then(|| state.clone())
    }

    fn only_reads(&self, operation: usize) -> bool {
        matches!(
            self.0[operation],
            Deed::Mode(_)
                | Deed::Failed(_)
                | Deed::Read { .. }
                | Deed::ReadNamed { .. }
                | Deed::List(_)
                | Deed::Tags { .. }
                | Deed::NoTags(_)
        )
    }
}

#[cfg(test)]
mod tests;
