//! `/stats` and `/stats/prometheus`: the same metrics in two forms.

use http::StatusCode;
use prometheus::{
    Encoder as _, Registry, TextEncoder,
    proto::{Metric, MetricFamily, MetricType},
};

use super::{Page, Query, Site, page, text};

pub(crate) fn prometheus(registry: &Registry) -> Page {
    let encoder = TextEncoder::new();
    let mut body = Vec::new();
    match encoder.encode(&registry.gather(), &mut body) {
        Ok(()) => page(StatusCode::OK, "text/plain; version=0.0.4", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// One line a counter or gauge; of a histogram its count and sum.
pub(super) fn plain(site: &Site, query: Query<'_>) -> Page {
    let filter = query.value("filter").unwrap_or_default();
    let mut lines = Vec::new();
    for family in site.telemetry.metrics.registry.gather() {
        for metric in family.get_metric() {
            lines.extend(metric_lines(&family, metric));
        }
    }
    lines.retain(|line| line.contains(filter));
    lines.sort_unstable();
    text(
        StatusCode::OK,
        lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    )
}

fn metric_lines(family: &MetricFamily, metric: &Metric) -> Vec<String> {
    let labels: String = metric
        .get_label()
        .iter()
        .map(|label| format!(".{}.{}", label.name(), label.value()))
        .collect();
    let name = format!("{}{labels}", family.name());
    match family.get_field_type() {
        MetricType::COUNTER => vec![format!("{name}: {}", metric.get_counter().get_value())],
        MetricType::GAUGE => vec![format!("{name}: {}", metric.get_gauge().get_value())],
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            vec![
                format!("{name}.count: {}", histogram.get_sample_count()),
                format!("{name}.sum: {}", histogram.get_sample_sum()),
            ]
        }
        MetricType::SUMMARY | MetricType::UNTYPED => Vec::new(),
    }
}
