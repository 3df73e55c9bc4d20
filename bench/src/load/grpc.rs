//! gRPC calls over HTTP/2 connections, so many at a time on each: unary, a small message there, one of the wanted length back.
//!
//! Calls that end in one read are followed by as many new ones in one write, as gRPC libraries do. A call counts if its
//! status is 200, its message as long as it was asked for, and its trailers say `grpc-status: 0`.

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use super::{Options, Seen, Window, connect};
use crate::h2::{Event, Field, Head, Link, hpack::Decoder};

/// A small request. Its first four bytes say how long the answer is to be.
const REQUEST: usize = 100; // bytes

pub(super) async fn open(options: &Options) -> anyhow::Result<Vec<Connection<TcpStream>>> {
    let mut connections = Vec::with_capacity(options.connections);
    for _ in 0..options.connections {
        let stream = connect(options.address).await?;
        connections.push(Connection::new(stream, options).await?);
    }
    Ok(connections)
}

pub(super) struct Connection<S> {
    stream: S,
    link: Link,
    decoder: Decoder,
    head: Head,
    request: Vec<u8>,
    input: Vec<u8>,
    calls: Vec<Call>,
    next: u32,
    /// At a time.
    most: usize,
    bytes: usize,
}

struct Call {
    stream: u32,
    began: Instant,
    /// Header blocks so far: head, trailers.
    blocks: u8,
    received: usize,
    fine: bool,
    over: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Waits for the other side's settings.
    pub(super) async fn new(stream: S, options: &Options) -> anyhow::Result<Self> {
        let fields = [
            Field::Known(3), // :method POST
            Field::Known(6), // :scheme http
            Field::Named(4, "/outrigger.bench.v1.Bench/Call"),
            Field::Named(1, &options.host),
            Field::Named(31, "application/grpc"),
            Field::New("te", "trailers"),
            Field::Named(58, "grpc-bench/1.0"),
        ];
        let mut request = vec![b'q'; REQUEST];
        request.splice(..4, u32::try_from(options.bytes)?.to_be_bytes());
        let mut connection = Self {
            stream,
            link: Link::new(true),
            decoder: Decoder::default(),
            head: Head::new(&fields, 0),
            request,
            input: Vec::with_capacity(2048),
            calls: Vec::with_capacity(options.streams),
            next: 1,
            most: options.streams,
            bytes: options.bytes,
        };
        while !connection.link.settled {
            connection.write().await?;
            connection.read().await?;
        }
        connection.write().await?;
        let streams = connection.link.streams;
        anyhow::ensure!(
            streams as usize >= options.streams,
            "only {streams} calls at a time are taken"
        );
        Ok(connection)
    }

    /// Until the window is over.
    pub(super) async fn drive(mut self, window: Window) -> Seen {
        let mut seen = Seen::default();
        while !window.over() {
            let turn = self.turn(window, &mut seen).await;
            if let Err(error) = turn {
                // Nobody closes a connection in the middle of a run.
                seen.failed(&error);
                break;
            }
        }
        seen
    }

    /// One call alone.
    pub(super) async fn call(&mut self) -> anyhow::Result<()> {
        self.most = 1;
        self.begin()?;
        while !self.calls.iter().all(|call| call.over) {
            self.write().await?;
            self.read().await?;
        }
        let fine = self.calls.drain(..).all(|call| call.fine);
        anyhow::ensure!(fine, "a call was not answered as it should be");
        Ok(())
    }

    async fn turn(&mut self, window: Window, seen: &mut Seen) -> anyhow::Result<()> {
        self.begin()?;
        self.write().await?;
        self.read().await?;
        self.calls.retain(|call| {
            if call.over && call.fine {
                seen.done(call.began, window);
            } else if call.over {
                seen.failed(&anyhow::anyhow!("a call was not answered as it should be"));
            }
            !call.over
        });
        Ok(())
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        while self.calls.len() < self.most && self.link.takes(5 + self.request.len())? {
            self.link.headers(self.next, &self.head, false);
            self.head.sent = true;
            self.link.message(self.next, &self.request, true);
            self.calls.push(Call {
                stream: self.next,
                began: Instant::now(),
                blocks: 0,
                received: 0,
                fine: true,
                over: false,
            });
            self.next += 2;
        }
        Ok(())
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        if !self.link.output.is_empty() {
            self.stream.write_all(&self.link.output).await?;
            self.stream.flush().await?;
            self.link.output.clear();
        }
        Ok(())
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        let read = self.stream.read_buf(&mut self.input).await?;
        anyhow::ensure!(read > 0, "connection closed in the middle of a call");
        let (calls, decoder, bytes) = (&mut self.calls, &mut self.decoder, self.bytes);
        let taken = self.link.read(&self.input, |_, event| {
            match event {
                Event::Headers { stream, block, end } => {
                    // Also of calls that are unknown: the table would be wrong from here on.
                    let mut said = false;
                    decoder.decode(block, |name, value| {
                        said |= match name {
                            b":status" => value == b"200",
                            b"grpc-status" => value == b"0",
                            _ => false,
                        };
                    })?;
                    if let Some(call) = of(calls, stream) {
                        call.blocks += 1;
                        call.fine &= said && end == (call.blocks == 2);
                        call.over |= end;
                        call.fine &= !end || call.received == 5 + bytes;
                    }
                }
                Event::Data { stream, bytes, end } => {
                    if let Some(call) = of(calls, stream) {
                        call.received += bytes.len();
                        // Trailers end a call.
                        call.fine &= !end;
                        call.over |= end;
                    }
                }
                Event::Reset { stream, code } => {
                    anyhow::ensure!(of(calls, stream).is_none(), "a call was reset, code {code}");
                }
            }
            Ok(())
        })?;
        self.input.drain(..taken);
        Ok(())
    }
}

fn of(calls: &mut [Call], stream: u32) -> Option<&mut Call> {
    calls.iter_mut().find(|call| call.stream == stream)
}
