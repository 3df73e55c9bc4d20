//! The names under which an operator may ask for a kind: `virtualservice`, `virtualservices`, `vs`.

use outrigger_policy::Kind;

/// The kind's name as documents write it.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    // `virtualservices.networking.istio.io`, as kubectl accepts it.
    let lower = lower.split('.').next().unwrap_or_default();
    Kind::ALL
        .into_iter()
        .find(|kind| {
            let name = kind.as_str().to_ascii_lowercase();
            lower == name || lower == plural(&name) || lower == short(*kind)
        })
        .map(|kind| kind.as_str().to_owned())
        .ok_or_else(|| {
            let known: Vec<String> = Kind::ALL
                .iter()
                .map(|kind| format!("{} ({})", kind.as_str().to_ascii_lowercase(), short(*kind)))
                .collect();
            format!("\"{text}\" is not a kind; known are {}", known.join(", "))
        })
}

fn plural(name: &str) -> String {
    name.strip_suffix('y')
        .map_or_else(|| format!("{name}s"), |stem| format!("{stem}ies"))
}

/// As Istio's own short names, and ours.
const fn short(kind: Kind) -> &'static str {
    match kind {
        Kind::VirtualService => "vs",
        Kind::DestinationRule => "dr",
        Kind::DestinationPolicy => "dp",
        Kind::ServiceEntry => "se",
        Kind::WorkloadEntry => "we",
        Kind::Sidecar => "sc",
        Kind::PeerAuthentication => "pa",
        Kind::AuthorizationPolicy => "ap",
        Kind::ExtensionProvider => "ep",
        Kind::RequestAuthentication => "ra",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_a_long_a_plural_and_a_short_name() {
        for text in [
            "VirtualService",
            "virtualservices",
            "vs",
            "virtualservices.networking.istio.io",
        ] {
            assert_eq!(parse(text).as_deref(), Ok("VirtualService"), "{text}");
        }
        assert_eq!(parse("serviceentries").as_deref(), Ok("ServiceEntry"));
        assert_eq!(parse("dp").as_deref(), Ok("DestinationPolicy"));
    }

    #[test]
    fn an_unknown_kind_is_refused_with_the_known_ones() {
        assert!(parse("pod").is_err_and(|error| error.contains("virtualservice (vs)")));
    }
}
