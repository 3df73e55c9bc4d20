//! Which protocols a request may switch to (RFC 9110 section 7.8, RFC 8441, CONNECT), as a listener and a route say.
//! Source: Envoy `UpgradeConfig`: what a route says about a protocol takes the place of what its listener says.

/// Protocols by name, and whether a request may switch to them. Default: none is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upgrades(Vec<(Box<str>, bool)>);

/// Two words on the same protocol: its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTwice(pub String);

/// What every listener of the mesh lets through.
const WEBSOCKET: &str = "websocket";

impl Upgrades {
    /// Names are compared without letter case.
    ///
    /// # Errors
    /// [`NamedTwice`].
    pub fn new(all: impl IntoIterator<Item = (String, bool)>) -> Result<Self, NamedTwice> {
        let mut made = Self::default();
        for (name, enabled) in all {
            if made.says(&name).is_some() {
                return Err(NamedTwice(name));
            }
            made.0.push((name.into(), enabled));
        }
        Ok(made)
    }

    /// WebSocket and nothing else: what listeners say that have no settings of their own.
    #[must_use]
    pub fn usual() -> Self {
        Self(vec![(WEBSOCKET.into(), true)])
    }

    /// Whether it says what [`Self::usual`] does.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        matches!(self.0.as_slice(), [(name, true)] if name.eq_ignore_ascii_case(WEBSOCKET))
    }

    /// Nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request may switch to `protocol`; None = nothing is said about it.
    #[must_use]
    pub fn says(&self, protocol: &str) -> Option<bool> {
        let mut all = self.0.iter();
        all.find_map(|(name, enabled)| name.eq_ignore_ascii_case(protocol).then_some(*enabled))
    }

    /// Whether a request may switch to `protocol` by what a route and its listener say. `listener` None = the usual.
    #[must_use]
    pub fn allow(listener: Option<&Self>, route: Option<&Self>, protocol: &str) -> bool {
        let by_route = route.and_then(|route| route.says(protocol));
        by_route.unwrap_or_else(|| match listener {
            Some(listener) => listener.says(protocol).unwrap_or(false),
            None => protocol.eq_ignore_ascii_case(WEBSOCKET),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgrades(all: &[(&str, bool)]) -> Upgrades {
        Upgrades::new(
            all.iter()
                .map(|(name, enabled)| ((*name).to_owned(), *enabled)),
        )
        .unwrap()
    }

    #[test]
    fn a_route_has_the_last_word_on_what_a_request_may_switch_to() {
        let (websocket, none) = (upgrades(&[("WebSocket", true)]), Upgrades::default());
        let off = upgrades(&[("websocket", false), ("tn3270", true)]);
        for (listener, route, protocol, allowed) in [
            (None, None, "WEBSOCKET", true),
            (None, None, "tn3270", false),
            (Some(&none), None, "websocket", false),
            (Some(&websocket), None, "websocket", true),
            (Some(&websocket), Some(&off), "websocket", false),
            (Some(&none), Some(&off), "TN3270", true),
            (Some(&websocket), Some(&none), "websocket", true),
        ] {
            assert_eq!(
                Upgrades::allow(listener, route, protocol),
                allowed,
                "{listener:?} {route:?} {protocol}"
            );
        }
    }

    #[test]
    fn a_protocol_is_named_once() {
        let twice = [
            ("websocket".to_owned(), true),
            ("WebSocket".to_owned(), false),
        ];
        assert_eq!(
            Upgrades::new(twice),
            Err(NamedTwice("WebSocket".to_owned()))
        );
        assert!(upgrades(&[("websocket", true)]).is_usual());
        assert!(!upgrades(&[("websocket", false)]).is_usual());
    }
}
