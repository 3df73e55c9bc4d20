//! A run as a page of Markdown: the promises first, then every scenario, then how it was measured.

use std::fmt::Write as _;

use super::{
    BUSY,
    report::{Report, Row, ScenarioReport},
    scenario::{Column, Scenario, Work},
    targets::{self, Verdict},
};

impl Report {
    pub(super) fn markdown(&self) -> String {
        let mut page = String::new();
        // A String takes everything.
        self.write_markdown(&mut page).unwrap_or_default();
        page
    }

    fn write_markdown(&self, page: &mut String) -> std::fmt::Result {
        let text = |key: &str| self.machine[key].as_str().unwrap_or_default().to_owned();
        let settings = &self.settings;
        writeln!(
            page,
            "# What a request costs, {}\n\n\
             {} cores of {}, {} MiB of memory, Linux {}. Medians of {} round(s) of {} ms, subjects in turn, {} worker \
             thread(s) a proxy;\nload generator, application and proxies share the machine.",
            settings["date"].as_str().unwrap_or_default(),
            self.machine["cores"],
            text("cpu"),
            self.machine["memory_mib"],
            text("kernel"),
            settings["rounds"],
            settings["window_ms"],
            settings["workers"],
        )?;
        for (subject, version) in &self.versions {
            writeln!(page, "- {subject}: {version}")?;
        }
        if self.machine["busy_percent"].as_f64().unwrap_or_default() >= BUSY {
            writeln!(
                page,
                "\n**Others were at work on this machine ({} % of its cores before the run): figures are larger than \
                 they need be, and ratios unsteady.**",
                self.machine["busy_percent"]
            )?;
        }
        if settings["quick"] == true {
            writeln!(
                page,
                "\n**A quick run, to see that the rig works: the figures say nothing.**"
            )?;
        }
        self.write_targets(page)?;
        for scenario in &self.scenarios {
            scenario.write(page)?;
        }
        for (heading, lines) in [("Missing", &self.missing), ("Failed", &self.failures)] {
            if !lines.is_empty() {
                writeln!(page, "\n## {heading}")?;
                for line in lines {
                    writeln!(page, "- {line}")?;
                }
            }
        }
        writeln!(page, "\n{LEGEND}")
    }

    fn write_targets(&self, page: &mut String) -> std::fmt::Result {
        let verdicts = targets::judge(self);
        if verdicts.is_empty() {
            return Ok(());
        }
        writeln!(
            page,
            "\n## Targets\n\n| | what | against | found | at most | |\n|---|---|---|---:|---:|---|"
        )?;
        for verdict in &verdicts {
            let Verdict {
                number,
                says,
                than,
                at_most,
                found,
                met,
                ..
            } = verdict;
            let found = found.map_or_else(|| "-".to_owned(), |found| format!("{found:.2}"));
            let word = match met {
                Some(true) => "met",
                Some(false) => "**missed**",
                None => "not measured",
            };
            writeln!(
                page,
                "| {number} | {says} | {than} | {found} | {at_most:.2} | {word} |"
            )?;
        }
        Ok(())
    }
}

impl ScenarioReport {
    fn write(&self, page: &mut String) -> std::fmt::Result {
        let columns = self.scenario.work.columns();
        let envoy = self.row("envoy", "");
        let first = columns.first();
        let Scenario {
            title, name, work, ..
        } = self.scenario;
        write!(page, "\n## {title}\n\n`{name}`")?;
        if !work.fresh() {
            write!(page, ", CPU a {}", work.unit())?;
        }
        write!(page, "\n\n| |")?;
        for column in columns {
            write!(page, " {} |", column.heading)?;
        }
        writeln!(
            page,
            " ratio | |\n|---|{}---:|---|",
            "---:|".repeat(columns.len())
        )?;
        for row in &self.rows {
            write!(page, "| {} |", row.name())?;
            for column in columns {
                write!(page, " {} |", cell(row, column, self.scenario.work))?;
            }
            // To the same subject's first variant, or else to Envoy.
            let against = match row.variant {
                "" => envoy,
                _ => self.rows.iter().find(|first| first.subject == row.subject),
            };
            let ratio = against
                .filter(|other| !std::ptr::eq(*other, row))
                .zip(first)
                .filter(|_| row.subject != "direct" && !row.rounds.is_empty())
                .and_then(|(other, column)| row.over(other, column.metric));
            let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let note = row.missing.as_deref().unwrap_or_default();
            writeln!(page, " {ratio} | {} |", one_line(note))?;
        }
        Ok(())
    }
}

fn cell(row: &Row, column: &Column, work: Work) -> String {
    // No proxy, no CPU and no memory of one.
    let direct = row.subject == "direct"
        && (["cpu_us", "rss_kib", "pss_kib"].contains(&column.metric) || work.fresh());
    match row.median(column.metric) {
        Some(median) if !direct => format!("{:.*}", column.decimals, median / column.divisor),
        _ => String::new(),
    }
}

/// A table's cell ends where its line does.
fn one_line(text: &str) -> String {
    text.replace('\n', " ").replace('|', "/")
}

const LEGEND: &str = "\
**CPU**: user and system time of the proxies' processes (both of two hops; all threads, children included) by the kernel's \
own accounting, over what was answered in the window. **ratio**: of the first column, to Envoy's, or, where a subject has \
several lines, to its first; median over the rounds. **p50**, **p99**: at a fixed rate from the moment when a request was due. \
**RSS**: of all proxies at the end of the window; **PSS** splits what processes share. What `outrigger` has switched on: routing, \
mutual TLS with SPIFFE ids, metrics, spans of 1 % of the traces; the peers have no spans but where a line says so, and HAProxy \
and nginx verify chains and names, not ids.";

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;

    #[test]
    fn a_page_says_what_was_met_and_what_is_missing() {
        let page = report().markdown();
        assert!(
            page.contains("| 1 | One hop plain HTTP/1.1, CPU | envoy | 0.27 | 0.40 | met |"),
            "{page}"
        );
        assert!(
            page.contains("| nginx | - | 1.00 | not measured |"),
            "{page}"
        );
        assert!(page.contains("| outrigger | 24.0 |"), "{page}");
        assert!(page.contains("- nginx: not installed"), "{page}");
    }
}
