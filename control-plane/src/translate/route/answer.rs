//! Routes that need no cluster: redirects and direct responses.

use outrigger_policy::{Redirect, RedirectPort, RedirectUri};
use outrigger_proto::envoy::config::{
    core::v3::{DataSource, data_source::Specifier},
    route::v3::{
        DirectResponseAction, RedirectAction,
        redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
    },
};

/// `requested` is the port that the virtual host is for.
pub(super) fn redirect(to: &Redirect, requested: u16) -> RedirectAction {
    RedirectAction {
        host_redirect: to.authority.clone().unwrap_or_default(),
        path_rewrite_specifier: to.uri.clone().map(|uri| match uri {
            RedirectUri::Path(path) => PathRewriteSpecifier::PathRedirect(path),
            RedirectUri::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
        }),
        port_redirect: match to.port {
            Some(RedirectPort::Number(number)) => u32::from(number),
            Some(RedirectPort::OfRequest) => u32::from(requested),
            // 0 = none is written, which means the scheme's.
            Some(RedirectPort::OfScheme) | None => 0,
        },
        scheme_rewrite_specifier: to
            .scheme
            .clone()
            .map(SchemeRewriteSpecifier::SchemeRedirect),
        response_code: match to.redirect_code {
            302 => RedirectResponseCode::Found,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::MovedPermanently,
        } as i32,
        ..RedirectAction::default()
    }
}

pub(super) fn direct(status: u16, body: &[u8]) -> DirectResponseAction {
    let specifier = match std::str::from_utf8(body) {
        Ok(text) => Specifier::InlineString(text.to_owned()),
        Err(_) => Specifier::InlineBytes(body.to_owned()),
    };
    DirectResponseAction {
        status: u32::from(status),
        body: (!body.is_empty()).then(|| DataSource {
            specifier: Some(specifier),
            ..DataSource::default()
        }),
        ..DirectResponseAction::default()
    }
}
