//! What passes through the switch, for whether somebody could have read it there.

use std::{
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::Namespace;

/// `ETH_P_ALL`.
const EVERY_PROTOCOL: u16 = 3;

/// A reader of every frame.
#[derive(Debug)]
pub struct Wire {
    readable: Arc<AtomicUsize>,
    frames: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Wire {
    pub(super) fn tap(switch: &Namespace, word: &str) -> Self {
        let protocol = Protocol::from(i32::from(EVERY_PROTOCOL.to_be()));
        let socket = switch.within(0, || Socket::new(Domain::PACKET, Type::RAW, Some(protocol)));
        let mut socket = socket.expect("root may read the wire");
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a socket");
        let mut wire = Self {
            readable: Arc::default(),
            frames: Arc::default(),
            done: Arc::default(),
            reader: None,
        };
        let (readable, frames, done) = (
            Arc::clone(&wire.readable),
            Arc::clone(&wire.frames),
            Arc::clone(&wire.done),
        );
        let word = word.as_bytes().to_vec();
        let reader = thread::spawn(move || {
            let mut frame = vec![0; 65_536];
            while !done.load(Ordering::SeqCst) {
                // A look at `done` now and then.
                let Ok(length) = socket.read(&mut frame) else {
                    continue;
                };
                frames.fetch_add(1, Ordering::SeqCst);
                if frame[..length].windows(word.len()).any(|part| part == word) {
                    readable.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        wire.reader = Some(reader);
        wire
    }

    /// Frames that had the word in them for everybody to read.
    pub fn readable(&self) -> usize {
        self.readable.load(Ordering::SeqCst)
    }

    /// All frames.
    pub fn frames(&self) -> usize {
        self.frames.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}
