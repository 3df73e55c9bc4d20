//! Counts what happened to the demo's requests: from the start, in the last second, in the last five.

use std::{collections::VecDeque, time::Duration};

use super::{histogram::Histogram, hops::Hops};

/// Seconds of the moving split.
const WINDOW: usize = 5;

/// What became of one request.
#[derive(Debug)]
pub(super) enum Outcome {
    Answered { latency: Duration, hops: Hops },
    Failed { latency: Duration, why: String },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) total: Counts,
    pub(super) latencies: Histogram,
    /// The last failure, in its own words.
    pub(super) last_failure: Option<String>,
    second: Counts,
    second_latencies: Histogram,
    window: VecDeque<Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) answered: u64,
    pub(super) failed: u64,
    /// Due, but too many were in flight.
    pub(super) skipped: u64,
    pub(super) v1: u64,
    pub(super) v2: u64,
    /// Answers that did not come over verified identities all the way.
    pub(super) plain: u64,
    /// Answers whose trace was lost on the way.
    pub(super) untraced: u64,
}

/// One second, as it is shown.
#[derive(Debug)]
pub(super) struct Second {
    pub(super) counts: Counts,
    pub(super) recent: Counts,
    pub(super) total: Counts,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

impl Tally {
    pub(super) fn add(&mut self, outcome: Outcome) {
        let mut counts = Counts::default();
        let latency = match outcome {
            Outcome::Answered { latency, hops } => {
                counts.answered = 1;
                match hops.reviews.as_deref() {
                    Some("v1") => counts.v1 = 1,
                    Some("v2") => counts.v2 = 1,
                    _ => {}
                }
                counts.plain = u64::from(!hops.mutual_tls);
                counts.untraced = u64::from(!hops.traced);
                latency
            }
            Outcome::Failed { latency, why } => {
                counts.failed = 1;
                self.last_failure = Some(why);
                latency
            }
        };
        self.latencies.add(latency);
        self.second_latencies.add(latency);
        self.total.add(counts);
        self.second.add(counts);
    }

    pub(super) fn skip(&mut self) {
        let counts = Counts {
            skipped: 1,
            ..Counts::default()
        };
        self.total.add(counts);
        self.second.add(counts);
    }

    /// Ends the current second.
    pub(super) fn close_second(&mut self) -> Second {
        let counts = std::mem::take(&mut self.second);
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(counts);
        let mut recent = Counts::default();
        for second in &self.window {
            recent.add(*second);
        }
        let shown = Second {
            counts,
            recent,
            total: self.total,
            p50_ms: self.second_latencies.percentile_ms(50),
            p99_ms: self.second_latencies.percentile_ms(99),
        };
        self.second_latencies.clear();
        shown
    }
}

impl Counts {
    const fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.v1 += other.v1;
        self.v2 += other.v2;
        self.plain += other.plain;
        self.untraced += other.untraced;
    }

    pub(super) const fn requests(&self) -> u64 {
        self.answered + self.failed
    }

    /// With those that were not sent.
    pub(super) const fn due(&self) -> u64 {
        self.requests() + self.skipped
    }

    /// Percent of the requests due that were not sent; None before the first.
    pub(super) fn unsent(&self) -> Option<f64> {
        percent(self.skipped, self.due())
    }

    /// Percent of the requests that were answered well; None before the first.
    pub(super) fn success(&self) -> Option<f64> {
        percent(self.answered, self.requests())
    }

    /// Percent of reviews' answers that came from v2; None before the first.
    pub(super) fn canary(&self) -> Option<f64> {
        percent(self.v2, self.v1 + self.v2)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of requests stay far below 2^52"
)]
fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(version: &str) -> Outcome {
        let hops = Hops {
            reviews: Some(version.to_owned()),
            mutual_tls: true,
            traced: true,
        };
        Outcome::Answered {
            latency: Duration::from_millis(1),
            hops,
        }
    }

    #[test]
    fn the_recent_split_forgets_what_is_older_than_five_seconds() {
        let mut tally = Tally::default();
        tally.add(answered("v1"));
        for _ in 0..5 {
            tally.add(answered("v2"));
            tally.close_second();
        }
        tally.add(answered("v2"));
        let shown = tally.close_second();
        assert_eq!(shown.recent.canary(), Some(100.0));
        assert_eq!(shown.total.requests(), 7);
        assert!(shown.total.canary() < Some(100.0));
    }

    #[test]
    fn a_failure_counts_against_success_and_keeps_its_reason() {
        let mut tally = Tally::default();
        tally.add(answered("v1"));
        tally.add(Outcome::Failed {
            latency: Duration::ZERO,
            why: "503".to_owned(),
        });
        assert_eq!(tally.close_second().counts.success(), Some(50.0));
        assert_eq!(tally.last_failure.as_deref(), Some("503"));
    }
}
