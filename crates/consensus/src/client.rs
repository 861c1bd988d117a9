//! A client of Raft groups: finds leaders, proposes commands, reads linearizably.

mod directory;
mod exchange;

pub(crate) use directory::Directory;
pub use exchange::GroupView;

use crate::host::{GroupSpec, ReplicaPlace};
use crate::members::Members;
use crate::wire::{self, Answer, Propose, Read, SessionWord};
use bytes::Bytes;
use protocol::limits::COMMAND_BYTES_MAX;
use protocol::wire::{decode, encode};
use protocol::{CommandId, GroupId, NodeId, ReplicaId};
use runtime::rpc::{self, Class, Method, Received, Rpc};
use runtime::time::{self, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The longest that one replica is waited for before another is asked.
const ATTEMPT: Duration = Duration::from_millis(1000);
/// The longest wait for who belongs, when that is in doubt.
const DOUBT: Duration = Duration::from_millis(300);
/// Pause after all replicas were asked in vain: first, and longest.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Between two questions to everybody for who belongs to a group.
const SEARCH_PAUSE: Duration = Duration::from_secs(10);

/// Proposes to and reads from groups; cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    rpc: Rpc,
    directory: Arc<Directory>,
    /// Who led when last heard of.
    leaders: Mutex<BTreeMap<GroupId, ReplicaId>>,
    /// When everybody was last asked who belongs to a group.
    searched: Mutex<BTreeMap<GroupId, Instant>>,
}

/// A command's place in its writer's session: the group remembers replies above `lowest_unfinished`, so that a
/// retried command is applied once and a late duplicate never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    pub id: CommandId,
    /// No command of this writer below it will be retried.
    pub lowest_unfinished: u64,
}

/// Why there is no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Certainly not applied, and never will be.
    #[error("group {group} does not answer: {reason}")]
    Unavailable { group: GroupId, reason: String },
    /// It may have been applied, or may yet be.
    #[error("outcome unknown in group {group}: {reason}")]
    Unknown { group: GroupId, reason: String },
    /// The group shed load before taking it.
    #[error("group {group} is busy")]
    Busy { group: GroupId },
    /// The session says that this command was finished long ago.
    #[error("command {id:?} is too old")]
    TooOld { id: CommandId },
}

/// One attempt at one replica.
enum Attempt {
    Reply(Bytes),
    /// Not taken; with whom the leader may be found.
    Elsewhere(Option<ReplicaId>, String),
    /// There is no such replica there (any more).
    Missing(String),
    /// Not yet: ask the same again in a moment.
    Later(String),
    /// The group takes no more.
    Busy,
    /// The node takes no more, whatever it is asked: another one may.
    NodeBusy(String),
    Unknown(String),
    TooOld,
    /// Refused for good.
    Refused(String),
}

/// The order in which the replicas of a group are asked.
struct Tour {
    group: GroupId,
    /// Of the configuration that is toured.
    version: u64,
    voters: Vec<ReplicaPlace>,
    next: usize,
    /// Replicas that did not answer in this round: hints that name them are not followed.
    silent: Vec<ReplicaId>,
    asked: usize,
    /// How often all were asked in vain.
    rounds: usize,
    pause: Duration,
    /// Somebody was not there: the configuration may be an old one.
    doubted: bool,
}

impl Client {
    /// A client of `groups`.
    pub fn new(rpc: Rpc, groups: Vec<GroupSpec>) -> Client {
        Client::with_directory(rpc, Arc::new(Directory::of(&groups)))
    }

    /// A client that shares what it knows of groups with others.
    pub(crate) fn with_directory(rpc: Rpc, directory: Arc<Directory>) -> Client {
        Client { inner: Arc::new(Inner { rpc, directory, leaders: Mutex::default(), searched: Mutex::default() }) }
    }

    /// Propose `command` and return the state machine's reply. With a session it is retried over leader changes
    /// until `deadline`; without one it is sent once more only if it certainly was not taken.
    pub async fn propose(&self, group: GroupId, session: Option<Session>, command: Bytes, deadline: Instant) -> Result<Bytes, Error> {
        if command.len() > COMMAND_BYTES_MAX {
            let reason = format!("a command of {} bytes is larger than {COMMAND_BYTES_MAX}", command.len());
            return Err(Error::Unavailable { group, reason });
        }
        let word = session.map(|session| SessionWord {
            writer: session.id.writer.0,
            counter: session.id.counter,
            lowest_unfinished: session.lowest_unfinished,
        });
        let mut unknown: Option<String> = None;
        let mut tour = self.tour(group)?;
        let mut reason = "no time was left".to_owned();
        let mut busy = false;
        while time::now() < deadline {
            let place = tour.place();
            let meta = encode(&Propose { group, replica: place.replica, session: word });
            // Without a session nobody may ask again, so the only attempt has all the time there is.
            let until = if session.is_some() { deadline.min(time::now() + ATTEMPT) } else { deadline };
            match self.attempt(place, wire::PROPOSE, meta, command.clone(), until).await {
                Attempt::Reply(reply) => {
                    self.note_leader(group, place.replica);
                    return Ok(reply);
                }
                Attempt::Elsewhere(hint, why) => {
                    reason = why;
                    self.go_on(&mut tour, hint, deadline).await;
                }
                Attempt::NodeBusy(why) => {
                    (reason, busy) = (why, true);
                    self.go_on(&mut tour, None, deadline).await;
                }
                Attempt::Missing(why) | Attempt::Later(why) => {
                    reason = why;
                    tour.doubted = true;
                    self.go_on(&mut tour, None, deadline).await;
                }
                Attempt::Busy if unknown.is_none() => return Err(Error::Busy { group }),
                Attempt::Busy => self.go_on(&mut tour, None, deadline).await,
                Attempt::Unknown(why) if session.is_none() => return Err(Error::Unknown { group, reason: why }),
                Attempt::Unknown(why) => {
                    runtime::probe!("consensus-command-retried");
                    unknown = Some(why);
                    tour.silent.push(place.replica);
                    self.go_on(&mut tour, None, deadline).await;
                }
                Attempt::TooOld => {
                    let id = session.map(|session| session.id);
                    return Err(id.map_or(Error::Unavailable { group, reason: "refused as too old".to_owned() }, |id| Error::TooOld { id }));
                }
                Attempt::Refused(why) => {
                    return Err(match unknown {
                        Some(_) => Error::Unknown { group, reason: why },
                        None => Error::Unavailable { group, reason: why },
                    });
                }
            }
        }
        Err(match unknown {
            Some(reason) => Error::Unknown { group, reason },
            None if busy => Error::Busy { group },
            None => Error::Unavailable { group, reason },
        })
    }

    /// Query linearizably (ReadIndex); retried over leader changes until `deadline`. [`Error::Busy`] at once when a second
    /// replica takes no more: who asks everybody until his deadline multiplies the load that is shed.
    pub async fn read(&self, group: GroupId, query: Bytes, deadline: Instant) -> Result<Bytes, Error> {
        let mut tour = self.tour(group)?;
        let mut reason = "no time was left".to_owned();
        let mut busy = false;
        let mut turned_away = false;
        while time::now() < deadline {
            let place = tour.place();
            let meta = encode(&Read { group, replica: place.replica });
            let until = deadline.min(time::now() + ATTEMPT);
            match self.attempt(place, wire::READ, meta, query.clone(), until).await {
                Attempt::Reply(reply) => return Ok(reply),
                Attempt::Elsewhere(hint, why) => {
                    reason = why;
                    self.go_on(&mut tour, hint, deadline).await;
                }
                Attempt::Missing(why) | Attempt::Later(why) => {
                    reason = why;
                    tour.doubted = true;
                    self.go_on(&mut tour, None, deadline).await;
                }
                Attempt::Busy if turned_away => return Err(Error::Busy { group }),
                Attempt::Busy => {
                    // Its list is its own, or its drive's: another replica may have room.
                    (busy, turned_away) = (true, true);
                    self.go_on(&mut tour, None, deadline).await;
                }
                Attempt::NodeBusy(why) => {
                    (reason, busy) = (why, true);
                    self.go_on(&mut tour, None, deadline).await;
                }
                Attempt::Unknown(why) => {
                    reason = why;
                    tour.silent.push(place.replica);
                    self.go_on(&mut tour, None, deadline).await;
                }
                Attempt::TooOld => return Err(Error::Unavailable { group, reason: "refused as too old".to_owned() }),
                Attempt::Refused(why) => return Err(Error::Unavailable { group, reason: why }),
            }
        }
        Err(if busy { Error::Busy { group } } else { Error::Unavailable { group, reason } })
    }

    fn tour(&self, group: GroupId) -> Result<Tour, Error> {
        let leader = self.inner.leaders.lock().expect("no holder panics").get(&group).copied();
        let tour = Tour::of(group, &self.known(group)?, leader, self.inner.rpc.node());
        tour.ok_or_else(|| Error::Unavailable { group, reason: "it has no voters".to_owned() })
    }

    /// Go on to another replica; with what is known of the group by then, or can be learned, if `tour` looks outdated.
    async fn go_on(&self, tour: &mut Tour, hint: Option<ReplicaId>, deadline: Instant) {
        let until = deadline.min(time::now() + DOUBT);
        if hint.is_some_and(|hint| tour.find(hint).is_none()) {
            self.ask_members(tour.group, tour.place().node, until).await;
        } else if (tour.asked + 1).is_multiple_of(tour.voters.len()) {
            tour.rounds += 1;
            // An election ends sooner than the second round; a group that moved to other nodes while this one was away does not.
            if tour.rounds > 1 && self.may_search(tour.group) {
                self.ask_all_members(tour.group, until).await;
            } else if std::mem::take(&mut tour.doubted) {
                let nodes: BTreeSet<NodeId> = tour.voters.iter().map(|place| place.node).collect();
                self.ask_nodes(tour.group, nodes, until).await;
            }
        }
        if let Ok(known) = self.known(tour.group)
            && known.version > tour.version
        {
            runtime::probe!("consensus-client-learned-members");
            tour.version = known.version;
            tour.voters = known.with_vote().copied().collect();
            tour.silent.clear();
            (tour.asked, tour.next) = (0, hint.and_then(|hint| tour.find(hint)).unwrap_or(0));
            return;
        }
        tour.follow(hint, deadline).await;
    }

    /// Whether it is time to ask everybody for who belongs to `group`; then it is not for a while.
    fn may_search(&self, group: GroupId) -> bool {
        let now = time::now();
        let mut searched = self.inner.searched.lock().expect("no holder panics");
        let due = searched.get(&group).is_none_or(|last| now.saturating_duration_since(*last) >= SEARCH_PAUSE);
        if due {
            searched.insert(group, now);
        }
        due
    }

    fn note_leader(&self, group: GroupId, leader: ReplicaId) {
        self.inner.leaders.lock().expect("no holder panics").insert(group, leader);
    }

    async fn send(&self, node: NodeId, method: Method, meta: Vec<u8>, body: Bytes, until: Instant) -> Result<Received, rpc::Error> {
        let body = if body.is_empty() { Vec::new() } else { vec![body] };
        self.inner.rpc.call(node, Class::Control, method, 0, meta.into(), body, until).await
    }

    async fn attempt(&self, place: ReplicaPlace, method: Method, meta: Vec<u8>, body: Bytes, until: Instant) -> Attempt {
        let received = match self.send(place.node, method, meta, body, until).await {
            Ok(received) => received,
            Err(rpc::Error::Unreachable { reason, .. }) => return Attempt::Elsewhere(None, reason),
            Err(rpc::Error::Busy { to }) => return Attempt::NodeBusy(format!("node {to} is busy")),
            Err(rpc::Error::Unknown { reason, .. }) => return Attempt::Unknown(reason),
        };
        match decode::<Answer>(&received.meta) {
            Ok(Answer::Reply) => Attempt::Reply(received.body),
            Ok(Answer::NotLeader { leader }) => Attempt::Elsewhere(leader, "it has no leader".to_owned()),
            Ok(Answer::Dropped) => Attempt::Elsewhere(None, "its leader changed".to_owned()),
            Ok(Answer::NoReplica) => Attempt::Missing(format!("replica {} does not run", place.replica)),
            Ok(Answer::Behind) => Attempt::Later("a change before it, or a learner, is not ready".to_owned()),
            Ok(Answer::Failed) => Attempt::Refused(String::from_utf8_lossy(&received.body).into_owned()),
            Ok(Answer::Busy) => Attempt::Busy,
            Ok(Answer::WindowFull) => Attempt::Refused("its writer has too many unfinished commands".to_owned()),
            Ok(Answer::Unknown) => Attempt::Unknown("its leader changed, or was too slow".to_owned()),
            Ok(Answer::ReplyNotKept) => Attempt::Unknown("it was applied, and its reply was too large to be kept".to_owned()),
            Ok(Answer::TooOld) => Attempt::TooOld,
            Ok(Answer::Malformed) => Attempt::Refused("it was refused as malformed".to_owned()),
            // It was taken by something that we do not understand.
            Err(error) => Attempt::Unknown(error.to_string()),
        }
    }
}

impl Tour {
    /// Through whoever may lead by `members`, as `node` begins it; `None` if that is nobody.
    fn of(group: GroupId, members: &Members, leader: Option<ReplicaId>, node: NodeId) -> Option<Tour> {
        let mut tour = Tour {
            group,
            version: members.version,
            voters: members.with_vote().copied().collect(),
            next: 0,
            silent: Vec::new(),
            asked: 0,
            rounds: 0,
            pause: PAUSE,
            doubted: false,
        };
        // Nothing known: a replica in this process, if there is one, knows where its leader is.
        let own = || tour.voters.iter().position(|voter| voter.node == node);
        tour.next = leader.and_then(|leader| tour.find(leader)).or_else(own).unwrap_or(0);
        (!tour.voters.is_empty()).then_some(tour)
    }

    fn place(&self) -> ReplicaPlace {
        self.voters[self.next]
    }

    fn find(&self, replica: ReplicaId) -> Option<usize> {
        self.voters.iter().position(|voter| voter.replica == replica)
    }

    /// `replica` did not answer, or is not there.
    fn note_silent(&mut self, replica: ReplicaId) {
        self.silent.push(replica);
        self.doubted = true;
    }

    /// Go on to the leader that was hinted at, or to the next replica; pause when all were asked.
    async fn follow(&mut self, hint: Option<ReplicaId>, deadline: Instant) {
        self.asked += 1;
        let hinted = hint.filter(|hint| !self.silent.contains(hint) && *hint != self.place().replica);
        let hinted = hinted.and_then(|hint| self.find(hint));
        self.next = hinted.unwrap_or((self.next + 1) % self.voters.len());
        if self.asked.is_multiple_of(self.voters.len()) {
            self.silent.clear();
            time::sleep_until(deadline.min(time::now() + self.pause)).await;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests;
