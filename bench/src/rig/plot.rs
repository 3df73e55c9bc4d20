//! A run as a picture: a panel a figure, a bar a subject, ours in colour, lower is better everywhere; a dashed line is where
//! a promise ends. Plain SVG, read by any browser and by GitHub.

use std::fmt::Write as _;

use super::{
    BUSY,
    report::{Report, Row, ScenarioReport},
    scenario::Column,
    targets,
};

const WIDTH: f64 = 1080.0;
const MARGIN: f64 = 24.0;
const HEADER: f64 = 76.0;
/// Two panels in a row.
const PANEL: f64 = (WIDTH - 3.0 * MARGIN) / 2.0;
const LABELS: f64 = 150.0; // left of the bars
const VALUES: f64 = 140.0; // right of the longest
const BAR: f64 = 16.0;
const GAP: f64 = 6.0;
const TITLE: f64 = 44.0; // above a panel's bars

const OURS: &str = "#d9480f";
const BASELINE: &str = "#f4a582";
const THEIRS: &str = "#8a97a6";
const PROMISE: &str = "#1c7c54";
const INK: &str = "#1f2933";
const PALE: &str = "#66727f";

impl Report {
    pub(super) fn plot(&self) -> String {
        let panels: Vec<Panel<'_>> = self
            .scenarios
            .iter()
            .flat_map(|scenario| self.panels(scenario))
            .collect();
        let mut body = String::new();
        // The shorter column takes the next one.
        let mut columns = [HEADER, HEADER];
        for panel in &panels {
            let [left, right] = columns;
            let at = usize::from(right < left);
            let x = if at == 0 {
                MARGIN
            } else {
                2.0 * MARGIN + PANEL
            };
            if let Some(y) = columns.get_mut(at) {
                // A String takes everything.
                panel.draw(&mut body, x, *y).unwrap_or_default();
                *y += panel.height();
            }
        }
        let [left, right] = columns;
        let height = left.max(right) + MARGIN;
        let warning = if self.settings["quick"] == true {
            " A quick run: the figures say nothing."
        } else if self.machine["busy_percent"].as_f64().unwrap_or_default() >= BUSY {
            " Others were at work: figures too large."
        } else {
            ""
        };
        let machine = format!(
            "{} cores of {}, Linux {}; medians of {} rounds, {} worker thread(s) a proxy, {}",
            self.machine["cores"],
            self.machine["cpu"].as_str().unwrap_or_default(),
            self.machine["kernel"].as_str().unwrap_or_default(),
            self.settings["rounds"],
            self.settings["workers"],
            self.settings["date"].as_str().unwrap_or_default(),
        );
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
             height=\"{height:.0}\" font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}{}{body}</svg>\n",
            text(
                MARGIN,
                34.0,
                20.0,
                INK,
                "start",
                &format!("What a request costs: lower is better.{warning}"),
                true
            ),
            text(
                MARGIN,
                56.0,
                12.0,
                PALE,
                "start",
                &format!("{machine}. Dashed: where our promise ends."),
                false
            ),
        )
    }

    fn panels<'a>(&'a self, scenario: &'a ScenarioReport) -> Vec<Panel<'a>> {
        let verdicts = targets::judge(self);
        let panel = |column: &'a Column| {
            let bars: Vec<(&Row, f64)> = scenario
                .rows
                .iter()
                // No proxy, no CPU.
                .filter(|row| row.subject != "direct" || column.metric != "cpu_us")
                .filter_map(|row| Some((row, row.median(column.metric)? / column.divisor)))
                .collect();
            // The hardest of the promises, in this panel's units.
            let limit = verdicts
                .iter()
                .filter(|verdict| {
                    verdict.scenario == scenario.scenario.name
                        && verdict.metric == column.metric
                        && !verdict.number.contains("stretch")
                })
                .filter_map(|verdict| {
                    let of = |wanted: &str| {
                        let found = |(row, _): &&(&Row, f64)| {
                            row.subject == wanted
                                || (row.subject == "outrigger" && row.variant == wanted)
                        };
                        bars.iter().find(found).map(|(_, value)| *value)
                    };
                    match verdict.than {
                        "MiB" | "KiB" => Some(verdict.at_most),
                        name => Some(of(name)? * verdict.at_most),
                    }
                })
                .min_by(f64::total_cmp);
            Panel {
                title: scenario.scenario.title,
                subtitle: match column.metric {
                    "cpu_us" => format!("CPU µs a {}", scenario.scenario.work.unit()),
                    _ => column.heading.to_owned(),
                },
                column,
                bars,
                limit,
            }
        };
        let plotted = scenario.scenario.work.columns().iter();
        plotted
            .filter(|column| column.plotted)
            .map(panel)
            .filter(|panel| !panel.bars.is_empty())
            .collect()
    }
}

struct Panel<'a> {
    title: &'a str,
    subtitle: String,
    column: &'a Column,
    bars: Vec<(&'a Row, f64)>,
    limit: Option<f64>,
}

impl Panel<'_> {
    fn height(&self) -> f64 {
        TITLE + self.bars.len() as f64 * (BAR + GAP) + MARGIN
    }

    /// Where both are there once.
    fn to_envoy(&self, ours: &Row) -> Option<f64> {
        let found = |(row, _): &&(&Row, f64)| row.subject == "envoy" && row.variant.is_empty();
        let (envoy, _) = self.bars.iter().find(found)?;
        ours.over(envoy, self.column.metric)
    }

    fn draw(&self, body: &mut String, x: f64, y: f64) -> std::fmt::Result {
        write!(
            body,
            "{}{}",
            text(x, y + 14.0, 12.5, INK, "start", self.title, true),
            text(x, y + 31.0, 11.0, PALE, "start", &self.subtitle, false)
        )?;
        let longest = self.bars.iter().map(|(_, value)| *value);
        let longest = longest.chain(self.limit).fold(f64::MIN_POSITIVE, f64::max);
        let scale = (PANEL - LABELS - VALUES) / longest;
        let top = y + TITLE;
        for (index, (row, value)) in self.bars.iter().enumerate() {
            let bar = top + index as f64 * (BAR + GAP);
            let colour = match row.subject {
                "outrigger" => OURS,
                "baseline" => BASELINE,
                _ => THEIRS,
            };
            // Memory may come out a little below its base.
            let length = (value * scale).max(1.0);
            writeln!(
                body,
                "<rect x=\"{:.1}\" y=\"{bar:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>",
                x + LABELS
            )?;
        }
        if let Some(limit) = self.limit {
            let at = x + LABELS + limit * scale;
            let bottom = top + self.bars.len() as f64 * (BAR + GAP);
            writeln!(
                body,
                "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\" stroke=\"{PROMISE}\" \
                 stroke-width=\"1.5\" stroke-dasharray=\"4 3\"/>",
                top - 4.0
            )?;
        }
        for (index, (row, value)) in self.bars.iter().enumerate() {
            let bar = top + index as f64 * (BAR + GAP);
            let ours = row.subject == "outrigger";
            let length = (value * scale).max(1.0);
            let baseline = bar + BAR - 4.0;
            let label = text(
                x + LABELS - 8.0,
                baseline,
                11.5,
                INK,
                "end",
                &row.name(),
                ours,
            );
            let mut value = format!("{value:.*}", self.column.decimals.min(2));
            if ours && let Some(ratio) = self.to_envoy(row) {
                value += &format!(" = {ratio:.2} x envoy");
            }
            let value = text(
                x + LABELS + length + 6.0,
                baseline,
                11.5,
                INK,
                "start",
                &value,
                ours,
            );
            write!(body, "{label}{value}")?;
        }
        Ok(())
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "what an SVG text has, in its order"
)]
fn text(x: f64, y: f64, size: f64, fill: &str, anchor: &str, words: &str, bold: bool) -> String {
    let weight = if bold { "600" } else { "400" };
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" font-weight=\"{weight}\" fill=\"{fill}\" \
         text-anchor=\"{anchor}\" \
         stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\">{words}</text>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;

    #[test]
    fn a_plot_has_a_bar_a_proxy_and_a_line_where_the_promise_ends() {
        let plot = report().plot();
        // The background, ours, Envoy's; the application alone has no CPU of a proxy.
        assert_eq!(plot.matches("<rect").count(), 3, "{plot}");
        assert_eq!(plot.matches("stroke-dasharray").count(), 1);
        assert!(
            plot.contains("A &amp; B") && plot.contains(">24.0 = 0.27 x envoy<"),
            "{plot}"
        );
    }
}
