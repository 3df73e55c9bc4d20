//! What one service of the shop is started with.

use std::net::SocketAddr;

use clap::Parser;

/// One small service of the demo's shop.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "shop",
    after_help = "Examples:
  shop ratings --listen 127.0.0.1:9083
  shop reviews --version v2 --listen 127.0.0.1:9082 --proxy 127.0.0.1:15080"
)]
pub struct Args {
    /// Which service to be: frontend, productpage, reviews, ratings, or any other name.
    pub(crate) service: String,

    /// Version that is shown in every answer. Reviews call ratings from v2 on.
    #[arg(long, default_value = "v1", env = "SHOP_VERSION")]
    pub(crate) version: String,

    /// Name of this copy, shown in every answer. Default: SERVICE-VERSION.
    #[arg(long, env = "SHOP_INSTANCE")]
    pub(crate) instance: Option<String>,

    /// Where to listen; port 0 picks a free one, and the ready line says which.
    #[arg(long, default_value = "127.0.0.1:9080", env = "SHOP_LISTEN")]
    pub(crate) listen: SocketAddr,

    /// HTTP proxy that calls go through (the sidecar). `-`: read the address from the first line of
    /// standard input, for a parent that learns it later.
    #[arg(long, default_value = "127.0.0.1:15080", env = "SHOP_PROXY")]
    pub(crate) proxy: String,

    /// Services to call for each request, as `host:port`; may be given several times. Default: what the
    /// service of this name calls in the shop. `none` calls nobody.
    #[arg(long = "upstream", value_name = "HOST:PORT", env = "SHOP_UPSTREAM")]
    pub(crate) upstreams: Vec<String>,

    /// Wait so many milliseconds before each answer.
    #[arg(long, default_value_t = 0, value_name = "MS", env = "SHOP_DELAY_MS")]
    pub(crate) delay_ms: u64,

    /// Answer so many percent of the requests with 500, evenly spread.
    #[arg(long, default_value_t = 0, value_name = "PERCENT", env = "SHOP_FAIL_PERCENT",
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) fail_percent: u8,

    /// End when standard input is closed, so that no child outlives a killed parent.
    #[arg(long, hide = true)]
    pub(crate) exit_with_parent: bool,
}

/// The port that every service of the shop has as its callers name it.
const PORT: u16 = 9080;

impl Args {
    pub(crate) fn instance(&self) -> String {
        self.instance
            .clone()
            .unwrap_or_else(|| format!("{}-{}", self.service, self.version))
    }

    /// Whom to call, as `host:port`.
    pub(crate) fn upstreams(&self) -> Vec<String> {
        if self.upstreams.iter().any(|upstream| upstream == "none") {
            return Vec::new();
        }
        if !self.upstreams.is_empty() {
            return self.upstreams.clone();
        }
        let next = match (self.service.as_str(), self.version.as_str()) {
            ("frontend", _) => "productpage",
            ("productpage", _) => "reviews",
            // As in the original book shop: the first version shows no stars.
            ("reviews", version) if version != "v1" => "ratings",
            _ => return Vec::new(),
        };
        vec![format!("{next}:{PORT}")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams(line: &str) -> Vec<String> {
        Args::parse_from(line.split(' ')).upstreams()
    }

    #[test]
    fn each_service_calls_the_next_one() {
        assert_eq!(upstreams("shop frontend"), ["productpage:9080"]);
        assert_eq!(upstreams("shop productpage"), ["reviews:9080"]);
        assert_eq!(upstreams("shop reviews --version v2"), ["ratings:9080"]);
    }

    #[test]
    fn reviews_v1_and_ratings_call_nobody() {
        assert!(upstreams("shop reviews").is_empty());
        assert!(upstreams("shop ratings").is_empty());
    }

    #[test]
    fn upstreams_can_be_named_or_switched_off() {
        assert_eq!(
            upstreams("shop a --upstream b:80 --upstream c:81"),
            ["b:80", "c:81"]
        );
        assert!(upstreams("shop frontend --upstream none").is_empty());
    }
}
