//! `--otlp-endpoint`: where spans go. Checked here, because an exporter that cannot connect only counts what it loses.

use http::Uri;

use crate::failure::Failure;

/// The address of a collector; None if it is not set, or set to nothing, as OpenTelemetry has it.
pub(crate) fn endpoint(text: Option<String>) -> Result<Option<String>, Failure> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match check(&text) {
        Ok(()) => Ok(Some(text)),
        Err(error) => Err(Failure::Misused(format!("--otlp-endpoint {text}: {error}"))),
    }
}

fn check(text: &str) -> Result<(), &'static str> {
    const EXPECTED: &str = "expected http://host:port, e.g. http://127.0.0.1:4317";
    let uri: Uri = text.parse().map_err(|_error| EXPECTED)?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(
                "https is not supported yet; send to a collector on this machine by http://",
            );
        }
        _ => return Err(EXPECTED),
    }
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    if has_host && uri.port_u16().is_some_and(|port| port > 0) {
        Ok(())
    } else {
        Err(EXPECTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_http_url_with_a_port() {
        for text in [
            "http://127.0.0.1:4317",
            "http://collector.example:4317/",
            "http://[::1]:4317/path",
        ] {
            let read = endpoint(Some(text.to_owned())).unwrap();
            assert_eq!(read.as_deref(), Some(text));
        }
        assert_eq!(endpoint(Some(String::new())).unwrap(), None);
        assert_eq!(endpoint(None).unwrap(), None);
    }

    #[test]
    fn what_spans_cannot_be_sent_to_is_misuse() {
        for (text, expected) in [
            ("foo", "expected http://"),
            ("127.0.0.1:4317", "expected http://"),
            ("http://collector", "expected http://"),
            ("http://:4317", "expected http://"),
            ("http://a b:1", "expected http://"),
            ("grpc://127.0.0.1:4317", "expected http://"),
            ("https://127.0.0.1:4317", "https is not supported yet"),
        ] {
            match endpoint(Some(text.to_owned())) {
                Err(Failure::Misused(error)) => assert!(error.contains(expected), "{error}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
