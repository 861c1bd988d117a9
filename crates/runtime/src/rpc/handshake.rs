//! The first bytes of a connection: both ends prove that they know the cluster secret, and derive the keys of the
//! two directions. See the crate's README for the bytes.
//!
//! Invariants: the listening end sends nothing that depends on the secret before the dialling end has proved that it
//! knows it; everything has a fixed size, so a stranger holds a few hundred bytes for a few seconds at most; both
//! nonces, both node ids, the cluster and the class are under every proof and key, so none serves twice or elsewhere.

use hmac::{Hmac, KeyInit, Mac};
use protocol::{ClusterId, NodeId};
use sha2::Sha256;
use std::io;

use super::frame::Seal;
use super::{Class, Secret};
use crate::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: [u8; 4] = *b"KSHK";
const VERSION: u8 = 1;
const HELLO_BYTES: usize = 72;
const ANSWER_BYTES: usize = 40;
const NONCE_BYTES: usize = 32;

/// Who an end of a connection is.
#[derive(Clone)]
pub(crate) struct Identity {
    pub node: NodeId,
    pub cluster: ClusterId,
    pub secret: Secret,
}

/// A connection whose ends know each other.
pub(crate) struct Session {
    pub peer: NodeId,
    pub class: Class,
    /// Key of what we send.
    pub send: Seal,
    /// Key of what we receive.
    pub receive: Seal,
}

/// Why no session came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the peer does not speak this protocol")]
    Magic,
    #[error("handshake version {got}, this build speaks {VERSION}")]
    Version { got: u8 },
    #[error("refused: {0}")]
    Refused(Verdict),
    #[error("the peer does not know the cluster secret")]
    Secret,
}

/// What the listening end thinks of the dialling one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Verdict {
    Welcome = 0,
    Version = 1,
    Cluster = 2,
    Node = 3,
    Secret = 4,
    Twin = 5,
    Unclear = 255,
}

impl Verdict {
    fn from_byte(byte: u8) -> Verdict {
        [Verdict::Welcome, Verdict::Version, Verdict::Cluster, Verdict::Node, Verdict::Secret, Verdict::Twin]
            .into_iter()
            .find(|verdict| *verdict as u8 == byte)
            .unwrap_or(Verdict::Unclear)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Welcome => "welcome",
            Verdict::Version => "another version of the protocol",
            Verdict::Cluster => "another cluster",
            Verdict::Node => "another node listens at this address: check the configured addresses",
            Verdict::Secret => "another cluster secret",
            Verdict::Twin => "both ends claim the same node id",
            Verdict::Unclear => "for a reason that this build does not know",
        })
    }
}

/// Dial: greet `peer` on `stream`, prove, and have it prove.
pub(crate) async fn dial<S>(stream: &mut S, own: &Identity, peer: NodeId, class: Class) -> Result<Session, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut transcript = [0; HELLO_BYTES + ANSWER_BYTES];
    encode_hello(&mut transcript[..HELLO_BYTES], own, peer, class);
    send(stream, &transcript[..HELLO_BYTES]).await?;
    stream.read_exact(&mut transcript[HELLO_BYTES..]).await?;
    check_answer(&transcript[HELLO_BYTES..])?;

    send(stream, &prove(&own.secret, b"keepstone rpc 1 dialling", &transcript).finalize().into_bytes()).await?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer).await?;
    check_answer(&answer)?;
    prove(&own.secret, b"keepstone rpc 1 listening", &transcript).verify_slice(&answer[8..]).map_err(|_| Error::Secret)?;

    let (to_listener, to_dialler) = keys(&own.secret, &transcript);
    Ok(Session { peer, class, send: to_listener, receive: to_dialler })
}

/// Listen: have the end that dialled `stream` prove, then prove.
pub(crate) async fn accept<S>(stream: &mut S, own: &Identity) -> Result<Session, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut transcript = [0; HELLO_BYTES + ANSWER_BYTES];
    stream.read_exact(&mut transcript[..HELLO_BYTES]).await?;
    let judged = decode_hello(&transcript[..HELLO_BYTES], own)?;
    let mut nonce = [0; NONCE_BYTES];
    crate::entropy::fill(&mut nonce);
    encode_answer(&mut transcript[HELLO_BYTES..], judged.as_ref().map_or_else(|verdict| *verdict, |_| Verdict::Welcome), &nonce);
    send(stream, &transcript[HELLO_BYTES..]).await?;
    let (peer, class) = judged.map_err(Error::Refused)?;

    let mut proof = [0; 32];
    stream.read_exact(&mut proof).await?;
    let mut answer = [0; ANSWER_BYTES];
    if prove(&own.secret, b"keepstone rpc 1 dialling", &transcript).verify_slice(&proof).is_err() {
        encode_answer(&mut answer, Verdict::Secret, &[0; 32]);
        send(stream, &answer).await?;
        return Err(Error::Secret);
    }
    let own_proof = prove(&own.secret, b"keepstone rpc 1 listening", &transcript).finalize().into_bytes();
    encode_answer(&mut answer, Verdict::Welcome, &own_proof);
    send(stream, &answer).await?;

    let (to_listener, to_dialler) = keys(&own.secret, &transcript);
    Ok(Session { peer, class, send: to_dialler, receive: to_listener })
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

fn encode_hello(target: &mut [u8], own: &Identity, peer: NodeId, class: Class) {
    target[0..4].copy_from_slice(&MAGIC);
    target[4] = VERSION;
    target[5] = class as u8;
    target[8..24].copy_from_slice(&own.cluster.0.to_le_bytes());
    target[24..32].copy_from_slice(&own.node.0.to_le_bytes());
    target[32..40].copy_from_slice(&peer.0.to_le_bytes());
    crate::entropy::fill(&mut target[40..HELLO_BYTES]);
}

/// Who greets us on which class of connection; or what we tell it instead of going on.
fn decode_hello(hello: &[u8], own: &Identity) -> Result<Result<(NodeId, Class), Verdict>, Error> {
    if hello[0..4] != MAGIC {
        return Err(Error::Magic);
    }
    let class = match hello[5] {
        0 => Class::Control,
        1 => Class::Bulk,
        _ => return Ok(Err(Verdict::Version)),
    };
    let number = |at: usize| u64::from_le_bytes(hello[at..at + 8].try_into().expect("8 bytes"));
    let cluster = u128::from_le_bytes(hello[8..24].try_into().expect("16 bytes"));
    let peer = NodeId(number(24));
    Ok(if hello[4] != VERSION {
        Err(Verdict::Version)
    } else if cluster != own.cluster.0 {
        Err(Verdict::Cluster)
    } else if number(32) != own.node.0 {
        Err(Verdict::Node)
    } else if peer == own.node {
        Err(Verdict::Twin)
    } else {
        Ok((peer, class))
    })
}

fn encode_answer(target: &mut [u8], verdict: Verdict, content: &[u8]) {
    target[0..4].copy_from_slice(&MAGIC);
    target[4] = VERSION;
    target[5] = verdict as u8;
    target[8..].copy_from_slice(content);
}

fn check_answer(answer: &[u8]) -> Result<(), Error> {
    if answer[0..4] != MAGIC {
        return Err(Error::Magic);
    }
    match Verdict::from_byte(answer[5]) {
        Verdict::Welcome if answer[4] == VERSION => Ok(()),
        Verdict::Welcome => Err(Error::Version { got: answer[4] }),
        verdict => Err(Error::Refused(verdict)),
    }
}

fn prove(secret: &Secret, label: &[u8], transcript: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes keys of any length").chain_update(label).chain_update(transcript)
}

/// The keys of what the dialling end sends, and of what the listening end sends.
fn keys(secret: &Secret, transcript: &[u8]) -> (Seal, Seal) {
    let key = |label| Seal::new(&prove(secret, label, transcript).finalize().into_bytes().into());
    (key(b"keepstone rpc 1 frames to the listening end"), key(b"keepstone rpc 1 frames to the dialling end"))
}
