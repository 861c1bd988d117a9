//! What processes hold of the network: listening sockets and streams.

use bytes::{Buf, Bytes, BytesMut};
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::connection::{CREDIT_BYTES, Connection, DIALLED, End, LISTENED, Payload, Phase, SEGMENT_BYTES, WINDOW_BYTES, Way};
use super::host::Listener;
use super::{Net, SimNet};
use crate::io::{AsyncRead, AsyncWrite, ReadBuf};
use crate::side::{machine_number, stream_for};

/// How long nobody answers to an address that no machine has.
const NO_HOST_WAIT: Duration = Duration::from_secs(3);

/// A listening socket.
pub(crate) struct TcpListener {
    net: Arc<SimNet>,
    host: u64,
    address: SocketAddr,
    number: u64,
}

impl TcpListener {
    pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
        let (net, host) = (SimNet::current(), machine_number());
        let (address, number) = net.with(|net| net.bind(host, address))?;
        Ok(TcpListener { net, host, address, number })
    }

    pub async fn accept(&self) -> Result<(TcpStream, SocketAddr)> {
        let port = self.address.port();
        let poll = |context: &mut Context<'_>| {
            self.net.with(|net| {
                if net.listener_of(self.host, port, self.number).is_none() {
                    return Poll::Ready(Err(Error::from(ErrorKind::ConnectionAborted)));
                }
                match net.accept(self.host, port, self.number, context.waker()) {
                    Some(id) => Poll::Ready(Ok((id, net.connections[&id].ends[DIALLED].address))),
                    None => Poll::Pending,
                }
            })
        };
        let (id, peer) = std::future::poll_fn(poll).await?;
        Ok((TcpStream { net: self.net.clone(), id, end: LISTENED }, peer))
    }

    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.net.with(|net| net.close_listener(self.host, self.address.port(), self.number));
    }
}

/// A process's end of a connection.
pub(crate) struct TcpStream {
    net: Arc<SimNet>,
    id: u64,
    end: usize,
}

impl TcpStream {
    pub async fn connect(address: SocketAddr) -> Result<TcpStream> {
        let (net, host) = (SimNet::current(), machine_number());
        let Some(id) = net.with(|net| net.dial(host, address))? else {
            crate::time::sleep(NO_HOST_WAIT).await;
            return Err(ErrorKind::HostUnreachable.into());
        };
        // Dropped if the caller gives up: that closes it.
        let stream = TcpStream { net, id, end: DIALLED };
        std::future::poll_fn(|context| stream.act(|net, id, end| net.poll_connected(id, end, context))).await?;
        Ok(stream)
    }

    fn act<T>(&self, act: impl FnOnce(&mut Net, u64, usize) -> Poll<Result<T>>) -> Poll<Result<T>> {
        self.net.with(|net| act(net, self.id, self.end))
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.net.with(|net| net.close(self.id, self.end));
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        self.act(|net, id, end| net.poll_read(id, end, context, buffer))
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.act(|net, id, end| net.poll_write(id, end, context, &[IoSlice::new(bytes)]))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        self.act(|net, id, end| net.poll_write(id, end, context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing to do: what was written is the kernel's.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Result<()>> {
        self.act(|net, id, end| Poll::Ready(net.shut_down(id, end)))
    }
}

impl Net {
    fn bind(&mut self, number: u64, address: SocketAddr) -> Result<(SocketAddr, u64)> {
        self.sockets += 1;
        let socket = self.sockets;
        let accepted_at = self.now;
        let host = self.hosts.get_mut(&number).ok_or(ErrorKind::AddrNotAvailable)?;
        let ip = address.ip();
        if !ip.is_unspecified() && !ip.is_loopback() && ip != host.address {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        let port = if address.port() == 0 { host.free_port()? } else { address.port() };
        if host.listeners.contains_key(&port) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let listener = Listener { number: socket, bound: ip, queue: Default::default(), unfinished: 0, accepted_at, waker: None };
        host.listeners.insert(port, listener);
        Ok((SocketAddr::new(ip, port), socket))
    }

    /// Call `address`. Nothing if no machine has it.
    fn dial(&mut self, from: u64, address: SocketAddr) -> Result<Option<u64>> {
        let host = self.hosts.get_mut(&from).ok_or(ErrorKind::AddrNotAvailable)?;
        let is_own = address.ip().is_loopback() || address.ip().is_unspecified();
        let own = SocketAddr::new(if is_own { address.ip() } else { host.address }, host.free_port()?);
        let found = if is_own { Some(from) } else { self.addresses.get(&address.ip()).copied() };
        let Some(to) = found else { return Ok(None) };
        host.dialling.insert(own.port());
        self.sockets += 1;
        let id = self.sockets;
        let link = self.links.entry((from, to)).or_default();
        link.dialled += 1;
        let stream = |purpose, from: u64, to: u64, dialled| stream_for(self.seed, purpose, from << 32 | to, dialled);
        let ways =
            [Way::new(stream("link to listener", from, to, link.dialled)), Way::new(stream("link to dialler", to, from, link.dialled))];
        let ends = [End::new(from, own, Phase::SynSent), End::new(to, address, Phase::Vanished)];
        self.connections.insert(id, Connection { ends, ways });
        self.send(id, DIALLED, Payload::Syn);
        Ok(Some(id))
    }

    fn end(&mut self, id: u64, end: usize) -> Result<&mut Connection> {
        let connection = self.connections.get_mut(&id).filter(|connection| connection.ends[end].is_held());
        // Destructors of a dead process.
        connection.ok_or_else(|| ErrorKind::ConnectionAborted.into())
    }

    fn poll_connected(&mut self, id: u64, number: usize, context: &mut Context<'_>) -> Poll<Result<()>> {
        let end = &mut self.end(id, number)?.ends[number];
        match end.phase {
            Phase::SynSent => {
                end.writer = Some(context.waker().clone());
                Poll::Pending
            }
            Phase::Failed => Poll::Ready(Err(end.error.take().unwrap_or(ErrorKind::ConnectionReset).into())),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_read(&mut self, id: u64, number: usize, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let connection = self.end(id, number)?;
        let end = &mut connection.ends[number];
        let before = buffer.filled().len();
        while let Some(first) = end.received.front_mut()
            && buffer.remaining() > 0
        {
            let taken = first.len().min(buffer.remaining());
            buffer.put_slice(&first[..taken]);
            first.advance(taken);
            if first.is_empty() {
                end.received.pop_front();
            }
        }
        let taken = buffer.filled().len() - before;
        if taken > 0 || buffer.remaining() == 0 {
            let way = &mut connection.ways[1 - number];
            way.credit += taken;
            if way.credit >= CREDIT_BYTES {
                let bytes = std::mem::take(&mut way.credit);
                self.send_credit(id, 1 - number, bytes);
            }
            return Poll::Ready(Ok(()));
        }
        if end.is_read_out {
            return Poll::Ready(Ok(()));
        }
        if end.phase == Phase::Failed {
            // Told once; after that it looks like an end, as sockets do.
            return Poll::Ready(end.error.take().map_or(Ok(()), |kind| Err(kind.into())));
        }
        end.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn poll_write(&mut self, id: u64, number: usize, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        let connection = self.end(id, number)?;
        let (end, way) = (&mut connection.ends[number], &mut connection.ways[number]);
        if end.phase == Phase::Failed || end.is_written_out {
            return Poll::Ready(Err(end.error.take().unwrap_or(ErrorKind::BrokenPipe).into()));
        }
        let wanted = parts.iter().map(|part| part.len()).sum::<usize>();
        let taken = wanted.min(WINDOW_BYTES - way.outstanding).min(SEGMENT_BYTES);
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        if taken == 0 {
            end.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        way.outstanding += taken;
        let bytes = gather(parts, taken);
        self.send(id, number, Payload::Data(bytes));
        Poll::Ready(Ok(taken))
    }

    fn shut_down(&mut self, id: u64, number: usize) -> Result<()> {
        let end = &mut self.end(id, number)?.ends[number];
        if end.phase != Phase::Open {
            return Err(ErrorKind::NotConnected.into());
        }
        if !std::mem::replace(&mut end.is_written_out, true) {
            self.send(id, number, Payload::Fin);
        }
        Ok(())
    }
}

/// The first `length` bytes of all parts.
fn gather(parts: &[IoSlice<'_>], length: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(length);
    for part in parts {
        let taken = part.len().min(length - bytes.len());
        bytes.extend_from_slice(&part[..taken]);
    }
    bytes.freeze()
}
