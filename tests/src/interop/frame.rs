//! A server's connection that gets one GOAWAY frame behind its own bytes, as a move does it: what a client loses by
//! that, it loses without any kernel program.

use crate::grpc::connection::{Connection, ConnectionRecord};
use balancer_common::http2::shift::FRAME;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// A head is three bytes of length, type, flags and stream (RFC 9113, section 4.1).
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Where the next byte lies in the grid of frames.
#[derive(Clone, Debug, Default)]
struct Grid {
    head: Vec<u8>,
    payload_left: usize,
    is_in_block: bool,
}

impl Grid {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let payload = self.payload_left.min(bytes.len());
            self.payload_left -= payload;
            bytes = &bytes[payload..];
            let head = (HEAD_BYTES - self.head.len()).min(bytes.len());
            self.head.extend(&bytes[..head]);
            bytes = &bytes[head..];
            if let [high, middle, low, kind, flags, ..] = self.head[..]
                && self.head.len() == HEAD_BYTES
            {
                self.payload_left =
                    usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                if [HEADERS, PUSH_PROMISE, CONTINUATION].contains(&kind) {
                    self.is_in_block = flags & END_HEADERS == 0;
                }
                self.head.clear();
            }
        }
    }

    fn takes_frame(&self) -> bool {
        self.head.is_empty() && self.payload_left == 0 && !self.is_in_block
    }
}

/// The connection.
pub struct Framed {
    inner: Connection,
    grid: Grid,
    due: Option<Instant>,
    pending: &'static [u8],
}

impl Framed {
    /// The frame goes behind the first bytes that are written when the connection is so old; never without an age.
    pub fn new(inner: Connection, age: Option<Duration>) -> Self {
        let due = age.map(|age| Instant::now() + age);
        Self { inner, grid: Grid::default(), due, pending: &[] }
    }

    fn poll_pending(&mut self, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(ctx, self.pending))?;
            self.pending = &self.pending[written..];
        }
        Poll::Ready(Ok(()))
    }
}

impl Connected for Framed {
    type ConnectInfo = Arc<ConnectionRecord>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

impl AsyncRead for Framed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(ctx, buffer)
    }
}

impl AsyncWrite for Framed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(ctx))?;
        let mut behind = self.grid.clone();
        behind.take(bytes);
        if self.due.is_none_or(|due| Instant::now() < due) || !behind.takes_frame() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(ctx, bytes))?;
            self.grid.take(&bytes[..written]);
            return Poll::Ready(Ok(written));
        }
        // In one piece with the server's own bytes, as one segment carries both in a move.
        let both = [bytes, &FRAME].concat();
        let written = ready!(Pin::new(&mut self.inner).poll_write(ctx, &both))?;
        let own = written.min(bytes.len());
        self.grid.take(&bytes[..own]);
        if own == bytes.len() {
            self.due = None;
            self.pending = &FRAME[written - own..];
        }
        Poll::Ready(Ok(own))
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(ctx))?;
        Pin::new(&mut self.inner).poll_flush(ctx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(ctx))?;
        Pin::new(&mut self.inner).poll_shutdown(ctx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_found_wherever_bytes_are_cut() {
        // DATA of three bytes, HEADERS without their end, CONTINUATION with it.
        let frames: [&[u8]; 3] = [
            &[0, 0, 3, 0, 0, 0, 0, 0, 1, 7, 7, 7],
            &[0, 0, 1, HEADERS, 0, 0, 0, 0, 3, 7],
            &[0, 0, 0, CONTINUATION, END_HEADERS, 0, 0, 0, 3],
        ];
        let all = frames.concat();
        for at in 1..=all.len() {
            let mut grid = Grid::default();
            grid.take(&all[..at / 2]);
            grid.take(&all[at / 2..at]);
            assert_eq!(grid.takes_frame(), at == 12 || at == all.len(), "behind {at} bytes");
        }
    }
}
