//! What the demo prints: one line a second, and with `--once` a summary that says whether the promise was kept.

use std::time::Duration;

use serde_json::{Value, json};

use super::tally::{Counts, Second, Tally};

/// Share of v2 that the applied document asks for, in percent.
const CANARY: f64 = 10.0;
/// Least success, in percent.
const SUCCESS: f64 = 99.9;
/// Most requests that may stay unsent, in percent of those due; more, and the rate asked for was not seen.
const UNSENT: f64 = 1.0;
/// Standard deviations by which the observed split may miss: a right one does once in 150,000 runs.
const DEVIATIONS: f64 = 4.5;

pub(super) fn heading() -> String {
    format!(
        "{:>6} {:>8} {:>10} {:>10} {:>10}   {:^15}   {:^15}\n",
        "time", "rate", "success", "p50", "p99", "v1/v2 last 5 s", "v1/v2 so far"
    )
}

pub(super) fn row(elapsed: Duration, second: &Second) -> String {
    let seconds = elapsed.as_secs_f64().round();
    let success = second
        .counts
        .success()
        .map_or_else(|| "-".to_owned(), |share| format!("{share:.2} %"));
    let skipped = match second.counts.skipped {
        0 => String::new(),
        skipped => format!("   {skipped} not sent: too many in flight"),
    };
    format!(
        "{:>6} {:>8} {success:>10} {:>10} {:>10}   {:^15}   {:^15}{skipped}\n",
        format!("{seconds:.0} s"),
        format!("{}/s", second.counts.requests()),
        format!("{:.1} ms", second.p50_ms),
        format!("{:.1} ms", second.p99_ms),
        split(&second.recent),
        split(&second.total),
    )
}

fn split(counts: &Counts) -> String {
    counts
        .canary()
        .map_or_else(|| "-".to_owned(), |v2| format!("{:.1}/{v2:.1}", 100.0 - v2))
}

/// What was seen, against what was promised.
pub(super) struct Summary {
    counts: Counts,
    seconds: f64,
    p50_ms: f64,
    p99_ms: f64,
    refuses_plain_text: bool,
    problems: Vec<String>,
}

impl Summary {
    pub(super) fn new(tally: &Tally, elapsed: Duration, refuses_plain_text: bool) -> Self {
        let mut summary = Self {
            counts: tally.total,
            seconds: elapsed.as_secs_f64(),
            p50_ms: tally.latencies.percentile_ms(50),
            p99_ms: tally.latencies.percentile_ms(99),
            refuses_plain_text,
            problems: Vec::new(),
        };
        summary.problems = summary.find_problems(tally.last_failure.as_deref());
        summary
    }

    fn find_problems(&self, last_failure: Option<&str>) -> Vec<String> {
        let counts = &self.counts;
        let mut problems = Vec::new();
        if counts.success().is_none_or(|success| success < SUCCESS) {
            problems.push(format!(
                "{} of {} requests failed; at least {SUCCESS} % should succeed; the last failure: {}",
                counts.failed,
                counts.requests(),
                last_failure.unwrap_or("none"),
            ));
        }
        let tolerance = tolerance(counts);
        if counts
            .canary()
            .is_none_or(|v2| (v2 - CANARY).abs() > tolerance)
        {
            problems.push(format!(
                "v1/v2 was {}; it should be {:.0}/{CANARY:.0} within {tolerance:.1} points",
                split(counts),
                100.0 - CANARY
            ));
        }
        if counts.plain > 0 {
            problems.push(format!(
                "{} answers came without mutual TLS on every hop",
                counts.plain
            ));
        }
        if counts.untraced > 0 {
            problems.push(format!(
                "{} answers had lost their trace on the way",
                counts.untraced
            ));
        }
        if counts.unsent().is_some_and(|unsent| unsent > UNSENT) {
            problems.push(format!(
                "{} of {} requests were not sent: too many were in flight; ask for less with --rate",
                counts.skipped,
                counts.due(),
            ));
        }
        if !self.refuses_plain_text {
            problems.push("an inbound port answered a caller without a certificate".to_owned());
        }
        problems
    }

    /// Whether everything promised was seen.
    pub(super) const fn kept(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn to_json(&self) -> Value {
        let v2 = self.counts.canary();
        json!({
            "requests": self.counts.requests(),
            "failures": self.counts.failed,
            "not_sent": self.counts.skipped,
            "success_percent": self.counts.success().map(rounded),
            "rate": rounded(self.rate()),
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "split": { "v1": v2.map(|v2| rounded(100.0 - v2)), "v2": v2.map(rounded) },
            "split_tolerance": rounded(tolerance(&self.counts)),
            "mtls": self.counts.plain == 0 && self.counts.answered > 0,
            "plain_text_refused": self.refuses_plain_text,
            "traced": self.counts.untraced == 0 && self.counts.answered > 0,
            "problems": self.problems,
        })
    }

    pub(super) fn text(&self) -> String {
        let unsent = match self.counts.skipped {
            0 => String::new(),
            skipped => format!(" {skipped} not sent,"),
        };
        let mut text = format!(
            "\n{} requests, {} failed,{unsent} {:.0}/s, p50 {:.1} ms, p99 {:.1} ms, v1/v2 {}\n",
            self.counts.requests(),
            self.counts.failed,
            self.rate(),
            self.p50_ms,
            self.p99_ms,
            split(&self.counts),
        );
        if self.kept() {
            text.push_str(
                "as promised: split, success, mutual TLS on every hop, one trace a request\n",
            );
        }
        for problem in &self.problems {
            text.push_str(&format!("not as promised: {problem}\n"));
        }
        text
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of requests stay far below 2^52"
    )]
    fn rate(&self) -> f64 {
        self.counts.requests() as f64 / self.seconds
    }
}

/// Percentage points by which chance alone may move the split of so many requests (binomial).
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of requests stay far below 2^52"
)]
fn tolerance(counts: &Counts) -> f64 {
    let share = CANARY / 100.0;
    let answers = (counts.v1 + counts.v2).max(1) as f64;
    DEVIATIONS * 100.0 * (share * (1.0 - share) / answers).sqrt()
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(counts: Counts, refuses_plain_text: bool) -> Summary {
        let mut tally = Tally::default();
        tally.total = counts;
        Summary::new(&tally, Duration::from_secs(10), refuses_plain_text)
    }

    fn good() -> Counts {
        Counts {
            answered: 2_000,
            v1: 1_790,
            v2: 210,
            ..Counts::default()
        }
    }

    #[test]
    fn a_split_within_chance_and_no_failure_keep_the_promise() {
        let summary = summary(good(), true);
        assert!(summary.kept(), "{:?}", summary.problems);
        assert_eq!(summary.to_json()["split"]["v2"], 10.5);
    }

    #[test]
    fn each_broken_promise_is_named() {
        let cases = [
            (
                Counts {
                    failed: 3,
                    ..good()
                },
                "3 of 2003 requests failed",
            ),
            (
                Counts {
                    v1: 1_900,
                    v2: 100,
                    ..good()
                },
                "95.0/5.0",
            ),
            (
                Counts {
                    v1: 0,
                    v2: 0,
                    ..good()
                },
                "v1/v2 was -",
            ),
            (Counts { plain: 1, ..good() }, "mutual TLS"),
            (
                Counts {
                    skipped: 98_000,
                    ..good()
                },
                "98000 of 100000 requests were not sent",
            ),
            (
                Counts {
                    untraced: 1,
                    ..good()
                },
                "trace",
            ),
        ];
        for (counts, expected) in cases {
            let problems = summary(counts, true).problems;
            assert!(
                problems.iter().any(|problem| problem.contains(expected)),
                "{expected}: {problems:?}"
            );
        }
        assert!(!summary(good(), false).kept());
    }

    #[test]
    fn a_few_unsent_requests_are_told_but_break_nothing() {
        let counts = Counts {
            skipped: 20,
            ..good()
        };
        let summary = summary(counts, true);
        assert!(summary.kept(), "{:?}", summary.problems);
        assert!(
            summary.text().contains("0 failed, 20 not sent, 200/s"),
            "{}",
            summary.text()
        );
    }
}
