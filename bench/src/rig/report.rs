//! What a run found: rows of rounds, medians, ratios. `markdown` and `plot` show it.

use serde::Serialize;
use serde_json::{Value, json};

use super::{measure::Sample, scenario::Scenario, targets};
use crate::report::median;

/// A run.
pub(crate) struct Report {
    pub(crate) machine: Value,
    /// By which it was started.
    pub(crate) settings: Value,
    /// Name and version of each subject.
    pub(crate) versions: Vec<(&'static str, String)>,
    pub(crate) scenarios: Vec<ScenarioReport>,
    /// What is not there, with how to get it.
    pub(crate) missing: Vec<String>,
    /// What went wrong; the run then fails, after all the rest.
    pub(crate) failures: Vec<String>,
}

/// One scenario's rows.
pub(crate) struct ScenarioReport {
    pub(crate) scenario: &'static Scenario,
    pub(crate) rows: Vec<Row>,
}

/// One subject in one variant.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) subject: &'static str,
    pub(crate) variant: &'static str,
    pub(crate) rounds: Vec<Sample>,
    /// Why there are none.
    pub(crate) missing: Option<String>,
}

impl Row {
    pub(crate) fn name(&self) -> String {
        if self.variant.is_empty() {
            self.subject.to_owned()
        } else {
            format!("{}, {}", self.subject, self.variant)
        }
    }

    pub(crate) fn median(&self, metric: &str) -> Option<f64> {
        let of = self.rounds.iter().filter_map(|round| round.get(metric));
        let values: Vec<f64> = of.copied().collect();
        (!values.is_empty()).then(|| median(values))
    }

    /// Ours divided by theirs, round by round: what slows a round down slows both. The median.
    pub(crate) fn over(&self, other: &Self, metric: &str) -> Option<f64> {
        if self.rounds.len() != other.rounds.len() {
            return Some(self.median(metric)? / other.median(metric)?);
        }
        let pairs = self.rounds.iter().zip(&other.rounds);
        let ratios: Vec<f64> = pairs
            .filter_map(|(a, b)| Some(a.get(metric)? / b.get(metric)?))
            .collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }
}

impl ScenarioReport {
    pub(crate) fn row(&self, subject: &str, variant: &str) -> Option<&Row> {
        let wanted = |row: &&Row| row.subject == subject && row.variant == variant;
        self.rows.iter().find(wanted)
    }

    /// Latency over the application's own, round by round.
    pub(crate) fn subtract_direct(&mut self) {
        let Some(at) = self.rows.iter().position(|row| row.subject == "direct") else {
            return;
        };
        let direct = self.rows.get(at).map(|row| row.rounds.clone());
        let direct = direct.unwrap_or_default();
        for row in self.rows.iter_mut().filter(|row| row.subject != "direct") {
            for (round, direct) in row.rounds.iter_mut().zip(&direct) {
                for (metric, added) in [("p50_us", "added_p50_us"), ("p99_us", "added_p99_us")] {
                    if let (Some(a), Some(b)) = (round.get(metric), direct.get(metric)) {
                        let added_us = a - b;
                        round.insert(added, added_us);
                    }
                }
            }
        }
    }
}

impl Report {
    pub(crate) fn scenario(&self, name: &str) -> Option<&ScenarioReport> {
        self.scenarios.iter().find(|s| s.scenario.name == name)
    }

    pub(crate) fn to_json(&self) -> anyhow::Result<Value> {
        let scenario = |report: &ScenarioReport| {
            let row = |row: &Row| {
                let names = row.rounds.first().into_iter().flat_map(Sample::keys);
                let medians: Sample = names
                    .filter_map(|name| Some((*name, row.median(name)?)))
                    .collect();
                json!({
                    "subject": row.subject,
                    "variant": row.variant,
                    "missing": row.missing,
                    "medians": medians,
                    "rounds": row.rounds,
                })
            };
            json!({
                "name": report.scenario.name,
                "title": report.scenario.title,
                "per": report.scenario.work.unit(),
                "subjects": report.rows.iter().map(row).collect::<Vec<_>>(),
            })
        };
        Ok(json!({
            "machine": self.machine,
            "settings": self.settings,
            "versions": self.versions.iter().map(|(a, b)| (*a, b)).collect::<std::collections::BTreeMap<_, _>>(),
            "targets": serde_json::to_value(targets::judge(self))?,
            "scenarios": self.scenarios.iter().map(scenario).collect::<Vec<_>>(),
            "missing": self.missing,
            "failures": self.failures,
        }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rig::scenario::SCENARIOS;

    fn row(subject: &'static str, values: &[f64]) -> Row {
        let round = |value: &f64| Sample::from([("cpu_us", *value), ("p50_us", value / 2.0)]);
        Row {
            subject,
            variant: "",
            rounds: values.iter().map(round).collect(),
            missing: None,
        }
    }

    pub(in crate::rig) fn report() -> Report {
        let rows = vec![
            row("direct", &[0.0, 0.0, 0.0]),
            row("outrigger", &[20.0, 60.0, 24.0]),
            row("envoy", &[100.0, 200.0, 90.0]),
        ];
        Report {
            machine: json!({"cpu": "A & B", "cores": 2, "kernel": "6.1", "busy_percent": 1.0}),
            settings: json!({"rounds": 3}),
            versions: vec![("envoy", "1.40".to_owned())],
            scenarios: vec![ScenarioReport {
                scenario: SCENARIOS.first().unwrap(),
                rows,
            }],
            missing: vec!["nginx: not installed".to_owned()],
            failures: Vec::new(),
        }
    }

    #[test]
    fn a_ratio_is_taken_within_a_round() {
        let report = report();
        let scenario = report.scenario("one-hop").unwrap();
        let ours = scenario.row("outrigger", "").unwrap();
        assert_eq!(ours.median("cpu_us"), Some(24.0));
        let ratio = ours.over(scenario.row("envoy", "").unwrap(), "cpu_us");
        assert_eq!(ratio, Some(24.0 / 90.0));
        assert_eq!(ours.median("rss_kib"), None);
    }

    #[test]
    fn a_target_is_met_missed_or_not_measured() {
        let verdicts = targets::judge(&report());
        let of = |than: &str| verdicts.iter().find(|verdict| verdict.than == than);
        assert_eq!(of("envoy").unwrap().met, Some(true));
        assert_eq!(of("nginx").unwrap().met, None);
        // Of scenarios that did not run nothing is said.
        assert!(verdicts.iter().all(|verdict| verdict.scenario == "one-hop"));
    }
}
