//! Stands between a connection and hyper: no byte of a request's head gets to hyper before the
//! whole head was checked.
//!
//! A head that arrives in one piece, and every body, is read straight into hyper's own buffer; only
//! a head that arrives in pieces is kept here until it is whole. In place of a head at fault, hyper
//! gets a stand-in, the last request of its connection: so the answers to the requests before it
//! are sent first, and the answer about the fault is one of ours, with an id and an envelope.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::framing::{Framing, Scanned, Stop};
use crate::http::layers::head_fault::HeadFault;

/// The request that takes the place of one at fault. Its path is no route.
const STAND_IN: &[u8] = b"GET /- HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
/// The most bytes that are read while it is not known whether they are HTTP.
const MAX_UNDECIDED: usize = 16 << 10;

/// The way from a connection to hyper.
#[derive(Debug)]
pub struct Gate {
    way: Way,
    framing: Framing,
    /// The largest head, in bytes.
    max_head: usize,
    /// Bytes that have arrived: `clear` that hyper may have, `given` of which it has, and behind
    /// them those that wait.
    held: Vec<u8>,
    clear: usize,
    given: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Whatever passes is checked.
    Checked,
    /// Everything passes: this is not HTTP/1.1, or no longer.
    Open,
    /// Nothing more passes.
    Shut,
    /// Nothing more passes, because the body could not be followed.
    Broken,
}

/// What the exchanges of a connection have come to.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The number of requests that are answered, or whose answer has begun.
    pub answered: u64,
    /// Whether the connection has become something else than HTTP.
    pub is_upgraded: bool,
}

impl Gate {
    /// A gate for a connection of HTTP/1.1 whose heads have at most this many bytes.
    pub fn new(max_head: usize) -> Self {
        Self { way: Way::Checked, framing: Framing::new(max_head), max_head, held: Vec::new(), clear: 0, given: 0 }
    }

    /// Lets everything pass from now on: the connection speaks HTTP/2, which has no heads to check.
    pub fn open(&mut self) {
        self.way = Way::Open;
    }

    /// Reads for hyper. `read` reads from the connection, `standing` is asked where it matters, and
    /// `refused` gets the number of the request, from 1, whose head is at fault.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        mut read: impl FnMut(&mut Context<'_>, &mut ReadBuf<'_>) -> Poll<io::Result<()>>,
        standing: impl Fn() -> Standing,
        refused: impl FnOnce(u64, HeadFault),
    ) -> Poll<io::Result<()>> {
        let mut refused = Some(refused);
        loop {
            if self.given < self.clear {
                self.give(buf);
                return Poll::Ready(Ok(()));
            }
            match self.way {
                Way::Open => return read(cx, buf),
                // Only an answer follows, and the end of the connection.
                Way::Shut => return Poll::Pending,
                Way::Broken => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a chunked body is not well-formed"))),
                Way::Checked => {}
            }
            if self.framing.is_undecided() {
                if self.decide(standing(), &mut refused) {
                    continue;
                }
                if self.held.len() >= MAX_UNDECIDED {
                    // The answer will make hyper read again.
                    return Poll::Pending;
                }
            }
            let before = buf.filled().len();
            ready!(read(cx, buf))?;
            let arrived = &buf.filled()[before..];
            if arrived.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !self.held.is_empty() {
                self.held.extend_from_slice(arrived);
                buf.set_filled(before);
                let scanned = self.framing.scan(&self.held);
                self.settle(scanned, &mut refused);
                continue;
            }
            let scanned = self.framing.scan(arrived);
            let passed = scanned.clear;
            if passed < arrived.len() || scanned.stop.is_some() {
                self.held.extend_from_slice(&arrived[passed..]);
                buf.set_filled(before + passed);
                self.settle(Scanned { clear: 0, stop: scanned.stop }, &mut refused);
            }
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Finds out whether what follows a request for an upgrade is HTTP; returns whether that is
    /// known by now.
    fn decide(&mut self, standing: Standing, refused: &mut Option<impl FnOnce(u64, HeadFault)>) -> bool {
        if standing.is_upgraded {
            self.way = Way::Open;
            self.clear = self.held.len();
            return true;
        }
        if standing.answered < self.framing.heads() {
            return false;
        }
        self.framing.stays_http();
        let scanned = self.framing.scan(&self.held);
        self.settle(scanned, refused);
        true
    }

    /// Notes how far what is held is clear, and what happens to the rest.
    fn settle(&mut self, scanned: Scanned, refused: &mut Option<impl FnOnce(u64, HeadFault)>) {
        self.clear = scanned.clear;
        match scanned.stop {
            None | Some(Stop::Undecided) => {}
            Some(Stop::Fault(fault)) => {
                if let Some(refused) = refused.take() {
                    refused(self.framing.heads() + 1, fault);
                }
                self.held.truncate(scanned.clear);
                self.held.extend_from_slice(STAND_IN);
                self.clear = self.held.len();
                self.way = Way::Shut;
            }
            Some(Stop::TooLong) => {
                // hyper itself says so when it finds no end within its own limit, which is the same.
                self.held.truncate(scanned.clear + self.max_head);
                self.clear = self.held.len();
                self.way = Way::Shut;
            }
            Some(Stop::BadChunk) => {
                self.held.truncate(scanned.clear);
                self.way = Way::Broken;
            }
        }
    }

    /// Hands over what is clear, as far as there is room for it.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let until = self.clear.min(self.given + buf.remaining());
        buf.put_slice(&self.held[self.given..until]);
        self.given = until;
        if self.given == self.clear {
            // An idle connection must not keep the room of its last head.
            self.held = self.held.split_off(self.clear);
            (self.clear, self.given) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests;
