//! Identities that an operator makes, rotates, disables and removes while faults strike: through the very commands of production, from a
//! machine of his own. What each gateway says to requests that they sign is compared with what the operator was told: after the bound
//! that the documents state nothing is taken that was ended, and nothing refused that stands.

use crate::violation::Violation;
use jepsen_like::s3::{Client, Credentials, Request};
use node::inspect::IDENTITY_AGE_MAX;
use node::operator::{Issued, Operator};
use runtime::side;
use runtime::time::{self, Instant};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How long the cluster has to obey, and a little more: the clocks of gateways may be somewhat slow.
const BOUND: Duration = IDENTITY_AGE_MAX.saturating_add(Duration::from_secs(1));
/// Between two commands of the operator.
const PAUSE: Duration = Duration::from_millis(1200);
/// The longest that one of them may take.
const COMMAND: Duration = Duration::from_secs(8);
/// Between two questions to one gateway.
const ASK_PAUSE: Duration = Duration::from_millis(300);
const ASK: Duration = Duration::from_secs(8);
/// Identities that stand at a time.
const STANDING_MAX: usize = 8;
/// Of those that were ended, so many are asked for in the end.
const ENDED_ASKED: usize = 16;
/// After the last fault all gateways obey within this.
const OBEY_WITHIN: Duration = Duration::from_secs(60);

/// How a secret key stands, since which simulated nanosecond.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Good(u64),
    Ended(u64),
    /// A command is under way, or its outcome is not known.
    Unknown,
}

/// Every secret key that was issued, and how often gateways said what.
#[derive(Default)]
pub struct Book {
    keys: Mutex<Vec<(Credentials, Standing)>>,
    said: Mutex<BTreeMap<&'static str, usize>>,
}

impl Book {
    fn issue(&self, issued: &Issued) -> usize {
        let credentials = Credentials::new(&*issued.identity.access_key, &*issued.secret_key);
        let mut keys = self.keys();
        keys.push((credentials, if issued.identity.enabled { good() } else { ended() }));
        keys.len() - 1
    }

    fn set(&self, index: usize, standing: Standing) {
        self.keys()[index].1 = standing;
    }

    /// Whom to ask for next: in turns somebody who was ended for longer than the bound, and anybody.
    fn choose(&self, turn: usize) -> Option<(usize, Credentials)> {
        let keys = self.keys();
        let long_ended = |standing: &Standing| matches!(standing, Standing::Ended(since) if side::elapsed_ns() >= since + nanos(BOUND));
        let ended: Vec<usize> = (0..keys.len()).filter(|index| turn.is_multiple_of(2) && long_ended(&keys[*index].1)).collect();
        // The youngest first: the others were asked for already.
        let index = match ended.len() {
            0 if keys.is_empty() => return None,
            0 => turn / 2 % keys.len(),
            count => ended[count - 1 - turn / 2 % count],
        };
        Some((index, keys[index].0.clone()))
    }

    /// Whether `said` at some time since `began` breaks the promise.
    fn judge(&self, index: usize, gateway: usize, said: Said, began: u64) -> Option<Violation> {
        let keys = self.keys();
        let (credentials, standing) = &keys[index];
        let long = |since: u64| began >= since + nanos(BOUND);
        let text = |what: &str, since: u64| {
            let ago = Duration::from_nanos(side::elapsed_ns() - since);
            format!("gateway {gateway} {what} {} although that is settled since {} s", credentials.access_key, ago.as_secs())
        };
        match (said, *standing) {
            (Said::Taken, Standing::Ended(since)) if long(since) => {
                Some(Violation::new("ended-identity-refused", text("takes the former secret key of", since)))
            }
            (Said::Refused, Standing::Good(since)) if long(since) => Some(Violation::new("good-identity-served", text("refuses", since))),
            _ => None,
        }
    }

    /// Those who stand, and the last ones that do not, with what is to be said to them.
    fn settled(&self) -> Vec<(Credentials, Said)> {
        let keys = self.keys();
        let row = |index: usize, said| (keys[index].0.clone(), said);
        let good = (0..keys.len()).filter(|index| matches!(keys[*index].1, Standing::Good(_))).map(|index| row(index, Said::Taken));
        let ended = (0..keys.len()).rev().filter(|index| matches!(keys[*index].1, Standing::Ended(_)));
        good.chain(ended.take(ENDED_ASKED).map(|index| row(index, Said::Refused))).collect()
    }

    fn keys(&self) -> MutexGuard<'_, Vec<(Credentials, Standing)>> {
        self.keys.lock().expect("nothing panics under this lock")
    }

    fn count(&self, said: Said) {
        let what = match said {
            Said::Taken => "requests of identities taken",
            Said::Refused => "requests of identities refused",
            Said::Nothing => return,
        };
        *self.said.lock().expect("nothing panics under this lock").entry(what).or_default() += 1;
    }

    /// How often gateways said what.
    pub fn tally(&self) -> BTreeMap<String, usize> {
        let said = self.said.lock().expect("nothing panics under this lock");
        said.iter().map(|(what, count)| (what.to_string(), *count)).collect()
    }
}

fn good() -> Standing {
    Standing::Good(side::elapsed_ns())
}

fn ended() -> Standing {
    Standing::Ended(side::elapsed_ns())
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("less than centuries")
}

/// One that stands, by the number of its present secret key.
struct Owned {
    access_key: String,
    key: usize,
    enabled: bool,
}

/// The operator's work until `until`. A command of unknown outcome ends what is known of its identity.
pub async fn work(operator: Operator, book: Arc<Book>, until: Instant) {
    let mut owned: Vec<Owned> = Vec::new();
    for step in 0_usize.. {
        if time::now() >= until {
            return;
        }
        let deadline = time::now() + COMMAND;
        // The one that is changed, the oldest ones first in turns; `None`: another is made.
        let chosen = match step % 6 {
            0 | 2 if owned.len() < STANDING_MAX => None,
            _ if owned.len() < 2 => None,
            _ => Some(owned.remove(0)),
        };
        match chosen {
            None => {
                if let Ok(issued) = operator.create_identity("simulated", deadline).await {
                    owned.push(Owned { access_key: issued.identity.access_key.clone(), key: book.issue(&issued), enabled: true });
                }
            }
            Some(one) => {
                let (key, before) = (one.key, book.keys()[one.key].1);
                book.set(key, Standing::Unknown);
                match step % 6 {
                    1 => {
                        if let Ok(issued) = operator.rotate_identity(&one.access_key, deadline).await {
                            book.set(key, ended());
                            owned.push(Owned { key: book.issue(&issued), ..one });
                        }
                    }
                    3 | 4 => {
                        let enabled = !one.enabled;
                        if operator.set_identity_enabled(&one.access_key, enabled, deadline).await.is_ok() {
                            book.set(key, if enabled { good() } else { ended() });
                            owned.push(Owned { enabled, ..one });
                        }
                    }
                    5 => {
                        if operator.remove_identity(&one.access_key, deadline).await.is_ok() {
                            // One that was ended before stays so.
                            book.set(key, if matches!(before, Standing::Ended(_)) { before } else { ended() });
                        }
                    }
                    _ => {
                        book.set(key, before);
                        owned.push(one);
                    }
                }
            }
        }
        time::sleep(PAUSE).await;
    }
}

/// What a gateway makes of who sends a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Said {
    Taken,
    Refused,
    /// It cannot be reached, or cannot say.
    Nothing,
}

/// Ask with a request that is refused for itself as soon as its sender is known, by a gateway alone.
async fn ask(client: &Client, credentials: &Credentials) -> Said {
    let request = Request::bucket("PUT", "not-a-bucket-s3alias").timeout(ASK);
    match client.with_credentials(credentials.clone()).call_whole(&request).await.map_err(|error| error.code().map(str::to_owned)) {
        Err(Some(code)) if code == "InvalidBucketName" => Said::Taken,
        Err(Some(code)) if code == "InvalidAccessKeyId" || code == "SignatureDoesNotMatch" => Said::Refused,
        _ => Said::Nothing,
    }
}

/// Ask all gateways until `until`.
pub async fn watch(clients: &[Client], book: &Book, until: Instant) -> Vec<Violation> {
    let watching = clients.iter().enumerate().map(async |(gateway, client)| {
        let mut found = Vec::new();
        for turn in 0.. {
            if time::now() >= until {
                break;
            }
            if turn % 5 == 4 {
                // Each is another one: nothing that is remembered of one helps with the next.
                let stranger = Credentials::new(format!("KSSTRANGER{turn:08}"), "secret of a stranger");
                if ask(client, &stranger).await == Said::Taken {
                    found.push(Violation::new("stranger-refused", format!("gateway {gateway} takes {}", stranger.access_key)));
                }
            } else if let Some((index, credentials)) = book.choose(turn) {
                let began = side::elapsed_ns();
                let said = ask(client, &credentials).await;
                book.count(said);
                found.extend(book.judge(index, gateway, said, began));
            }
            time::sleep(ASK_PAUSE).await;
        }
        found
    });
    futures::future::join_all(watching).await.into_iter().flatten().collect()
}

/// All is healed: every gateway takes exactly those who stand.
pub async fn ends(clients: &[Client], book: &Book) -> Vec<Violation> {
    let deadline = time::now() + OBEY_WITHIN;
    loop {
        let mut found = Vec::new();
        for (gateway, client) in clients.iter().enumerate() {
            for (credentials, expected) in book.settled() {
                let said = ask(client, &credentials).await;
                if said != expected {
                    let check = if expected == Said::Taken { "good-identity-served" } else { "ended-identity-refused" };
                    let text = format!("gateway {gateway} in the end: {said:?}, not {expected:?}: {}", credentials.access_key);
                    found.push(Violation::new(check, text));
                }
            }
        }
        if found.is_empty() || time::now() >= deadline {
            return found;
        }
        time::sleep(ASK_PAUSE).await;
    }
}
