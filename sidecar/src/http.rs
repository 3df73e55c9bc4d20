//! HTTP as a proxy must treat it: what is checked at the door, what never travels on, our own answers, bodies.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod check;
pub(crate) mod expect;
pub(crate) mod frames;
pub(crate) mod headers;
pub(crate) mod io;
pub(crate) mod path;
pub(crate) mod replay;
pub(crate) mod serve;
pub(crate) mod tap;

/// Errors of bodies.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// All header fields of a message together, in bytes. (Their number is hyper's default, 100: it is cheaper unset.)
pub(crate) const MAX_HEADER_BYTES: usize = 60 * 1024;
/// What one HTTP/1.1 connection may hold unread: a head of full size, and then some.
pub(crate) const READ_BUFFER: usize = 64 * 1024;
/// Flow-control windows of HTTP/2: what one stream, and one connection, may make us hold.
pub(crate) const H2_STREAM_WINDOW: u32 = 64 * 1024;
pub(crate) const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Streams of one HTTP/2 connection.
pub(crate) const H2_STREAMS: u32 = 1000;

/// Runs hyper's own tasks on the worker that owns the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExec;

impl<F> hyper::rt::Executor<F> for LocalExec
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
