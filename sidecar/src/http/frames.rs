//! What a peer's HTTP/2 frames may cost: frames that bring nothing forward (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty
//! DATA, CONTINUATION, RST_STREAM, unknown ones) are paid for by time, and by requests and bytes that do.
//!
//! ```text
//! bytes from the peer ──► Meter: frame headers only ──► Budget: spent? ──► GOAWAY (ENHANCE_YOUR_CALM), end
//!                                                         ▲ earned: requests, parts of bodies either way, time
//! ```
//! It holds nothing back, and checks beside that only what h2 does not: that settings come first, and the sizes of frames
//! that have one. The rest is h2's part, which has limits of its own for CONTINUATION, small DATA, pending resets and its own resets.
//! Source: RFC 9113 section 10.5; Envoy's `max_inbound_*` options and `overload.premature_reset_*`; CVE-2019-9511 to 9518,
//! CVE-2023-44487, CVE-2024-27316, CVE-2025-8671.

use std::cell::Cell;

use outrigger_core::Moment;

/// Frames without use that a connection may have sent at once, and what it can have saved at most.
const MOST: u32 = 2_000;
/// Earned by waiting.
const PER_SECOND: u64 = 100;
/// Earned by a request: its HEADERS, what a client says beside them, its end.
const REQUEST: u32 = 8;
/// Earned by a part of a body: clients tell of its window, some of the connection's as well, some send a PING.
const PART: u32 = 4;
/// Bytes of an answer for which a client may send another WINDOW_UPDATE.
const WINDOW_BYTES: usize = 2 * 1024;
/// Requests from which on it matters how many of them were taken back (Envoy).
const RESETS_FROM: u32 = 500;
/// What lived longer was not opened only to be reset (Envoy).
const PREMATURE_MS: u64 = 1_000;
/// Types of frames and flags (RFC 9113 section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// Length, type, flags, stream (RFC 9113 section 4.1).
const HEADER: usize = 9;
/// Of HTTP/2's preface.
const PREFACE: usize = 24;

/// Why a connection ends: GOAWAY's error code (RFC 9113 section 7), and what metrics call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    code: u32,
    pub(crate) limit: &'static str,
}

const PROTOCOL_ERROR: Exceeded = Exceeded {
    code: 0x1,
    limit: "malformed",
};
const FRAME_SIZE_ERROR: Exceeded = Exceeded {
    code: 0x6,
    limit: "malformed",
};
const TOO_MANY_FRAMES: Exceeded = Exceeded {
    code: 0xb,
    limit: "http2_frames",
};
const TOO_MANY_RESETS: Exceeded = Exceeded {
    code: 0xb,
    limit: "http2_resets",
};

/// What a connection may still spend. Shared by who reads its frames and who serves its requests.
#[derive(Debug)]
pub(crate) struct Budget {
    left: Cell<u32>,
    earned_until: Cell<Moment>,
    requests: Cell<u32>,
    premature: Cell<u32>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            left: Cell::new(MOST),
            earned_until: Cell::new(Moment(0)),
            requests: Cell::new(0),
            premature: Cell::new(0),
        }
    }
}

impl Budget {
    /// A request has come.
    pub(crate) fn began(&self) {
        self.requests.set(self.requests.get().saturating_add(1));
        self.earn(REQUEST);
    }

    /// Its caller took a request back before it was answered, so long after it had come.
    pub(crate) fn taken_back(&self, after_ms: u64) {
        if after_ms < PREMATURE_MS {
            self.premature.set(self.premature.get().saturating_add(1));
        }
    }

    /// A part of an answer goes to it.
    pub(crate) fn answers(&self, bytes: usize) {
        let windows = u32::try_from(bytes / WINDOW_BYTES).unwrap_or(MOST);
        self.earn(PART.saturating_add(windows));
    }

    fn earn(&self, frames: u32) {
        self.left
            .set(self.left.get().saturating_add(frames).min(MOST));
    }

    /// False if there is nothing left to spend.
    fn spend(&self, now: Moment) -> bool {
        if let Some(left) = self.left.get().checked_sub(1) {
            self.left.set(left);
            return true;
        }
        let since = now.0.saturating_sub(self.earned_until.get().0);
        let earned = u32::try_from(since * PER_SECOND / 1_000).unwrap_or(MOST);
        self.earned_until.set(now);
        self.earn(earned);
        self.left
            .get()
            .checked_sub(1)
            .map(|left| self.left.set(left))
            .is_some()
    }

    /// More than half of many requests were taken back at once.
    fn resets_too_much(&self) -> bool {
        let requests = self.requests.get();
        requests >= RESETS_FROM && self.premature.get() > requests / 2
    }
}

/// Reads the headers of frames as they pass by.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Of the preface.
    seen: usize,
    header: [u8; HEADER],
    have: usize,
    /// Of the current frame's payload.
    skip: usize,
    /// Settings have come.
    greeted: bool,
    /// The current frame is DATA.
    is_data: bool,
    /// A header block has begun, and has not ended.
    in_block: bool,
    last_stream: u32,
    is_over: bool,
}

impl Meter {
    /// Bytes have come from the peer.
    pub(crate) fn read(
        &mut self,
        mut bytes: &[u8],
        budget: &Budget,
        now: Moment,
    ) -> Result<(), Exceeded> {
        let preface = (PREFACE - self.seen).min(bytes.len());
        self.seen += preface;
        bytes = bytes.get(preface..).unwrap_or_default();
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = (HEADER - self.have).min(bytes.len());
            let (now_read, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
            if let Some(place) = self.header.get_mut(self.have..self.have + wanted) {
                place.copy_from_slice(now_read);
            }
            self.have += wanted;
            bytes = rest;
            if self.have == HEADER {
                self.have = 0;
                self.frame(budget, now)?;
            }
        }
        if budget.resets_too_much() {
            return Err(TOO_MANY_RESETS);
        }
        Ok(())
    }

    fn frame(&mut self, budget: &Budget, now: Moment) -> Result<(), Exceeded> {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        self.skip = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        // RFC 9113 section 3.4.
        if !std::mem::replace(&mut self.greeted, true) && (kind != SETTINGS || flags & ACK != 0) {
            return Err(PROTOCOL_ERROR);
        }
        self.is_data = kind == DATA;
        let fits = match kind {
            PRIORITY => self.skip == 5,
            RST_STREAM | WINDOW_UPDATE => self.skip == 4,
            SETTINGS if flags & ACK != 0 => self.skip == 0,
            SETTINGS => self.skip.is_multiple_of(6),
            PING => self.skip == 8,
            GOAWAY => self.skip >= 8,
            _ => true,
        };
        if !fits {
            return Err(FRAME_SIZE_ERROR);
        }
        if matches!(kind, HEADERS | CONTINUATION) {
            self.in_block = flags & END_HEADERS == 0;
        }
        match kind {
            HEADERS => {
                let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
                self.last_stream = self.last_stream.max(stream);
                Ok(())
            }
            DATA if self.skip > 0 => {
                budget.earn(1);
                Ok(())
            }
            DATA if flags & END_STREAM != 0 => Ok(()),
            _ if budget.spend(now) => Ok(()),
            _ => Err(TOO_MANY_FRAMES),
        }
    }

    /// Something has begun that nobody can use before it is whole: a header block, or a frame other than DATA.
    pub(crate) fn is_within(&self) -> bool {
        self.in_block || self.have > 0 || (self.skip > 0 && !self.is_data) || self.seen < PREFACE
    }

    /// A GOAWAY that says why, once.
    pub(crate) fn goodbye(&mut self, why: Exceeded) -> Option<[u8; 17]> {
        if std::mem::replace(&mut self.is_over, true) {
            return None;
        }
        let mut frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        frame[9..13].copy_from_slice(&self.last_stream.to_be_bytes());
        frame[13..17].copy_from_slice(&why.code.to_be_bytes());
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    const OPAQUE: [u8; 8] = [0; 8];

    /// How many of `frames` in a row are taken, in pieces of `piece` bytes.
    fn taken(budget: &Budget, frame: &[u8], frames: u32, piece: usize, now: Moment) -> u32 {
        let mut meter = Meter {
            seen: PREFACE,
            greeted: true,
            ..Meter::default()
        };
        for number in 0..frames {
            for part in frame.chunks(piece) {
                if meter.read(part, budget, now).is_err() {
                    return number;
                }
            }
        }
        frames
    }

    #[test]
    fn frames_without_use_are_few_and_others_are_free() {
        for (kind, flags, payload, most) in [
            (6, 0, &OPAQUE[..], MOST),
            (4, 0, &[], MOST),
            (2, 0, &[0; 5], MOST),
            (8, 0, &[0, 0, 0, 1], MOST),
            (0, 0, &[], MOST),
            (9, 0, &[], MOST),
            (3, 0, &[0; 4], MOST),
            (200, 0, b"anything", MOST),
            (0, 0, b"data", 10_000),
            (0, 1, &[], 10_000),
            (1, 4, b"head", 10_000),
        ] {
            let frame = frame(kind, flags, 1, payload);
            for piece in [1, 7, 1000] {
                let budget = Budget::default();
                let found = taken(&budget, &frame, 10_000, piece, Moment(0));
                assert_eq!(found, most, "type {kind} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn requests_answers_and_time_pay_for_frames() {
        let budget = Budget::default();
        let ping = frame(6, 0, 0, &OPAQUE);
        assert_eq!(taken(&budget, &ping, 10_000, 100, Moment(0)), MOST);
        budget.began();
        budget.answers(64 * 1024);
        assert_eq!(
            taken(&budget, &ping, 10_000, 100, Moment(0)),
            REQUEST + PART + 32
        );
        assert_eq!(taken(&budget, &ping, 10_000, 100, Moment(500)), 50);
        assert_eq!(taken(&budget, &ping, 10_000, 100, Moment(500)), 0);
        assert_eq!(
            taken(&budget, &ping, 10_000, 100, Moment(u64::MAX / 200)),
            MOST
        );
    }

    #[test]
    fn a_client_that_pings_once_a_second_for_ever_is_left_alone() {
        let budget = Budget::default();
        let ping = frame(6, 0, 0, &OPAQUE);
        for second in 0..10_000 {
            assert_eq!(taken(&budget, &ping, 1, 100, Moment(second * 1_000)), 1);
        }
    }

    #[test]
    fn a_client_that_takes_most_of_its_requests_back_at_once_is_told_to_calm_down() {
        let ping = frame(6, 0, 0, &OPAQUE);
        for (premature_of_ten, after_ms, taken_at_all) in [
            (10, 0, false),
            (6, 0, false),
            (5, 0, true),
            (10, 1_500, true),
        ] {
            let budget = Budget::default();
            for number in 0..1_000 {
                budget.began();
                if number % 10 < premature_of_ten {
                    budget.taken_back(after_ms);
                }
            }
            let found = taken(&budget, &ping, 1, 100, Moment(0));
            assert_eq!(found == 1, taken_at_all, "{premature_of_ten} of ten");
        }
    }

    #[test]
    fn what_has_begun_is_known_until_it_is_whole() {
        let budget = Budget::default();
        let within = |frames: &[&[u8]]| {
            let mut meter = Meter {
                seen: PREFACE,
                greeted: true,
                ..Meter::default()
            };
            for bytes in frames {
                meter.read(bytes, &budget, Moment(0)).unwrap();
            }
            meter.is_within()
        };
        let (head, part) = (frame(1, 4, 1, b"head"), frame(1, 0, 1, b"he"));
        assert!(!within(&[&head]));
        assert!(within(&[&head[..5]]));
        assert!(within(&[&head[..11]]));
        assert!(within(&[&part]));
        assert!(within(&[&part, &frame(9, 0, 1, b"a")]));
        assert!(!within(&[&part, &frame(9, 4, 1, b"ad")]));
        assert!(!within(&[&frame(0, 0, 1, b"data")[..11]]));
        assert!(within(&[&frame(6, 0, 0, &OPAQUE)[..11]]));
        assert!(Meter::default().is_within());
    }

    #[test]
    fn the_goodbye_names_the_last_stream_and_comes_once() {
        let mut meter = Meter::default();
        let budget = Budget::default();
        let mut bytes = vec![b' '; PREFACE];
        bytes.extend(frame(4, 0, 0, &[]));
        bytes.extend(frame(1, 4, 7, b"head"));
        meter.read(&bytes, &budget, Moment(0)).unwrap();
        let goodbye = meter.goodbye(TOO_MANY_FRAMES).unwrap();
        assert_eq!(
            goodbye.to_vec(),
            frame(7, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 0xb])
        );
        assert_eq!(meter.goodbye(TOO_MANY_FRAMES), None);
    }

    #[test]
    fn settings_come_first_and_frames_that_have_a_size_have_it() {
        let read = |greets: bool, bytes: &[u8]| {
            let mut meter = Meter {
                seen: PREFACE,
                greeted: greets,
                ..Meter::default()
            };
            meter.read(bytes, &Budget::default(), Moment(0))
        };
        assert_eq!(read(false, &frame(4, 0, 0, &[])), Ok(()));
        for first in [
            frame(4, 1, 0, &[]),
            frame(6, 0, 0, &OPAQUE),
            frame(1, 5, 1, b"head"),
        ] {
            assert_eq!(read(false, &first), Err(PROTOCOL_ERROR), "{first:?}");
        }
        for (kind, flags, size) in [
            (2, 0, 4),
            (3, 0, 5),
            (4, 0, 7),
            (4, 1, 6),
            (6, 0, 7),
            (7, 0, 7),
            (8, 0, 3),
        ] {
            let odd = frame(kind, flags, 0, &vec![0; size]);
            assert_eq!(read(true, &odd), Err(FRAME_SIZE_ERROR), "type {kind}");
        }
    }
}
