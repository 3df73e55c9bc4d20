//! Whatever a path looks like, rules, routes and the application see the same one; and where a listener asks for it, no
//! application, however it reads paths, is brought to what a rule forbids.
//!
//! Two hundred paths that mean something else to somebody, against "nobody may call /admin*" and "everybody may call
//! /public*, and nothing else".

use outrigger_proto::envoy::{
    config::rbac::v3::{
        self as rbac, Permission, Policy, Principal, permission::Rule, principal::Identifier,
    },
    extensions::filters::{http::rbac::v3::Rbac, network::http_connection_manager::v3::HttpFilter},
    r#type::matcher::v3::{PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern},
};
use outrigger_tests::{TestApp, XdsForm, eventually, packed, say_plainly};

use super::foreign_server::{Joined, http_filter};

/// Of `HttpConnectionManager`.
const KEEP_UNCHANGED: i32 = 1;
const REJECT_REQUEST: i32 = 2;
const UNESCAPE_AND_FORWARD: i32 = 4;

fn rules(action: rbac::rbac::Action, prefix: &str) -> HttpFilter {
    let path = StringMatcher {
        match_pattern: Some(MatchPattern::Prefix(prefix.to_owned())),
        ..StringMatcher::default()
    };
    let rule = Rule::UrlPath(PathMatcher {
        rule: Some(path_matcher::Rule::Path(path)),
    });
    let policy = Policy {
        permissions: vec![Permission { rule: Some(rule) }],
        principals: vec![Principal {
            identifier: Some(Identifier::Any(true)),
        }],
        ..Policy::default()
    };
    let rules = rbac::Rbac {
        action: action as i32,
        policies: [("p".to_owned(), policy)].into(),
        ..rbac::Rbac::default()
    };
    let filter = Rbac {
        rules: Some(rules),
        ..Rbac::default()
    };
    let name = "envoy.extensions.filters.http.rbac.v3.RBAC";
    http_filter("access", packed(name, &filter))
}

/// Paths that lead to `/admin`, or out of `/public`, for who reads them so.
fn corpus() -> Vec<String> {
    let dots = [
        "..",
        "%2e%2e",
        "%2E.",
        ".%2e",
        "..;",
        "..;a=b",
        ".;/..",
        "%2e%2e;x",
        "..%3b",
        "..%3Bx",
        "%252e%252e",
        "%25252e%25252e",
        "%c0%ae%c0%ae",
        "%e0%80%ae%e0%80%ae",
        "%u002e%u002e",
        "%2%65%2%65",
        "%%32e%%32e",
        "...",
        ". .",
        "..%20",
        "..%09",
        "..%00",
        "..#",
        "..?",
    ];
    let slashes = [
        "/",
        "//",
        "/./",
        "%2f",
        "%2F",
        "%5c",
        "%5C",
        "\\",
        "/;/",
        "/%3b/",
        "/;a=b/",
        "%252f",
        "%25252f",
        "%c0%af",
        "%e0%80%af",
        "%f0%80%80%af",
        "%u002f",
        "%u2215",
        "%2%66",
        "/%2f",
        "%2f/",
        "\\/",
    ];
    let mut all: Vec<String> = Vec::new();
    for dots in dots {
        for slash in ["/", "%2f", "%5c", "\\"] {
            all.push(format!("/public{slash}{dots}{slash}admin"));
        }
        all.push(format!("/{dots}/admin"));
    }
    for slash in slashes {
        all.push(format!("/{slash}admin"));
        all.push(format!("{slash}admin"));
        all.push(format!("/public/..{slash}admin"));
        all.push(format!("/public{slash}..{slash}..{slash}admin"));
    }
    let more = [
        "/admin",
        "/admin/",
        "/admin/x",
        "/admin;x",
        "/admin%3bx",
        "/admin%2fx",
        "/admin%00",
        "/admin%20",
        "/admin.",
        "/admin?",
        "/admin?x=/public",
        "/admin#/public",
        "/public#/../admin",
        "/public?/../admin",
        "/public%3f/../admin",
        "/public%23/../admin",
        "/%61dmin",
        "/%41dmin/../admin",
        "/%2561dmin",
        "/adm%69n",
        "/a%64%6d%69%6e",
        "/%u0061dmin",
        "/public/../admin",
        "/public/x/../../admin",
        "/public/./../admin",
        "/public/.././admin",
        "/./admin",
        "/x/../admin",
        "/%2e/admin",
        "/%2e%2e/admin",
        "/../admin",
        "//admin",
        "///admin",
        "/.//admin",
        "//public/../admin",
        "/public//../admin",
        "/public//../../admin",
        "/public/..//admin",
        "http://app/admin",
        "http://app//admin",
        "http://app/public/../admin",
        "http://other/admin",
        "*",
        "/*",
        "/;/admin",
        "/;x/admin",
        "/public;/../admin",
        "/public;x=/../admin",
        "/public;/..;/admin",
        "/admin/..;/public",
        "/public%",
        "/public%2",
        "/public/%zz/../admin",
        "/public/%",
        "/%",
        "/%2",
        "/public/%2e",
        "/public/%2e%2e",
        "/publicly",
        "/PUBLIC",
        "/public%2f",
        "/public%5c",
    ];
    all.extend(more.map(str::to_owned));
    all
}

/// How the most careless of applications may read a path: whatever can be decoded is, as often as it can be, every
/// kind of slash is one, parameters do not count, several slashes are one, dots are followed.
fn careless(target: &str) -> String {
    let mut path = target
        .split(['?', '#'])
        .next()
        .unwrap_or_default()
        .to_owned();
    for _ in 0..8 {
        path = decoded(&path);
    }
    let path = path.replace(['\\', '\u{2215}'], "/");
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        let segment = segment.split([';', '\0']).next().unwrap_or_default().trim();
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = |digits: Option<&[u8]>| {
            u32::from_str_radix(std::str::from_utf8(digits?).ok()?, 16).ok()
        };
        if *first == b'%'
            && let Some(b'u' | b'U') = after.first()
            && let Some(code) = hex(after.get(1..5)).and_then(char::from_u32)
        {
            bytes.extend(code.to_string().bytes());
            rest = &after[5..];
        } else if *first == b'%'
            && let Some(code) = hex(after.get(..2))
        {
            bytes.push(u8::try_from(code).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    // Overlong forms of ASCII, as careless decoders take them.
    let mut out = String::new();
    let mut rest = &bytes[..];
    loop {
        rest = match rest {
            [] => return out,
            [0xc0 | 0xc1, low @ 0x80..=0xbf, more @ ..] => {
                out.push(char::from(low & 0x3f));
                more
            }
            [0xe0, 0x80, low @ 0x80..=0xbf, more @ ..] => {
                out.push(char::from(low & 0x3f));
                more
            }
            [0xf0, 0x80, 0x80, low @ 0x80..=0xbf, more @ ..] => {
                out.push(char::from(low & 0x3f));
                more
            }
            [byte, more @ ..] => {
                out.push(char::from(*byte));
                more
            }
        };
    }
}

impl Joined {
    /// Paths of the corpus that got through to the application, as it saw them.
    async fn passed(
        &mut self,
        app: &TestApp,
        version: &str,
        filter: HttpFilter,
        (merge, escaped): (bool, i32),
        is_in_force: (&str, &str),
    ) -> Vec<(String, String)> {
        let nonce = format!("p{version}");
        self.manager(version, &nonce, vec![filter], |manager| {
            manager.merge_slashes = merge;
            manager.path_with_escaped_slashes_action = escaped;
        })
        .await;
        assert_eq!(self.stream.answer_to(&nonce).await.error, None);
        // A snapshot comes after its ACK.
        let (path, status) = is_in_force;
        eventually("the rules are in force", async || {
            let heard = self.ask(path).await;
            heard.contains(status).then_some(()).ok_or(heard)
        })
        .await;
        let mut passed = Vec::new();
        for path in corpus() {
            app.forget();
            let heard = self.ask(&path).await;
            assert!(heard.starts_with("HTTP/1.1 "), "{path:?}: {heard}");
            for received in app.received() {
                passed.push((path.clone(), received.path));
            }
        }
        passed
    }

    async fn ask(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n");
        say_plainly(self.out, request.as_bytes()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_gets_around_a_rule_about_paths() {
    assert!(corpus().len() >= 100, "{}", corpus().len());
    let app = TestApp::start("app").await;
    let mut joined = Joined::start(XdsForm::Delta).await;
    joined.configure(&app).await;
    let mut version = 1;
    for (merge, escaped) in [
        (false, KEEP_UNCHANGED),
        (true, KEEP_UNCHANGED),
        (true, REJECT_REQUEST),
        (true, UNESCAPE_AND_FORWARD),
    ] {
        let strict = merge && escaped != KEEP_UNCHANGED;
        let mode = format!("merge {merge}, escaped {escaped}");
        // Whichever rules were there before, this tells that these are.
        let marks = [("/admin", "403"), ("/elsewhere", "403")];
        let deny = rules(rbac::rbac::Action::Deny, "/admin");
        version += 1;
        let passed = joined
            .passed(&app, &version.to_string(), deny, (merge, escaped), marks[0])
            .await;
        assert!(!passed.is_empty());
        for (sent, seen) in passed {
            let path = seen.split('?').next().unwrap();
            assert!(
                !path.starts_with("/admin"),
                "{mode}: {sent:?} came as {seen:?}"
            );
            if strict {
                let read = careless(&seen);
                assert!(
                    !read.starts_with("/admin"),
                    "{mode}: {sent:?} came as {seen:?}, which is {read:?} to some"
                );
            }
        }
        let allow = rules(rbac::rbac::Action::Allow, "/public");
        version += 1;
        let passed = joined
            .passed(
                &app,
                &version.to_string(),
                allow,
                (merge, escaped),
                marks[1],
            )
            .await;
        assert!(!passed.is_empty());
        for (sent, seen) in passed {
            let path = seen.split('?').next().unwrap();
            assert!(
                path.starts_with("/public"),
                "{mode}: {sent:?} came as {seen:?}"
            );
            // Whatever the mode, nobody is led out of it by dots.
            let read = careless(&seen);
            let plain = !seen.contains("%25");
            if strict || plain {
                assert!(
                    read.starts_with("/public"),
                    "{mode}: {sent:?} came as {seen:?}, which is {read:?} to some"
                );
            }
        }
    }
}
