//! Sockets: those of the system, or of the simulated network. TCP_NODELAY is set on every stream: without it a small reply
//! waits 40 ms for a delayed ACK.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::io::{AsyncRead, AsyncWrite, ReadBuf};
use crate::side;

/// A listening socket.
pub struct TcpListener(side::TcpListener);

/// A connection.
pub struct TcpStream(side::TcpStream);

impl TcpListener {
    /// Listen on `address`.
    pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        Ok(TcpListener(side::TcpListener::bind(address).await?))
    }

    /// The next connection and its peer.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((TcpStream(stream), peer))
    }

    /// The address that was bound (the port, if 0 was asked for).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl TcpStream {
    /// Connect to `address`. Bounded by the caller's timeout.
    pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
        Ok(TcpStream(side::TcpStream::connect(address).await?))
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let polled = Pin::new(&mut self.0).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = polled {
            side::note("bytes read", &buffer.filled()[filled..]);
        }
        polled
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
