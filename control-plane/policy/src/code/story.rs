//! The story of each code: what it means, how it hurts, a document that has it and one that has not.
//!
//! The texts stand in `stories/` beside `src`, one file a group:
//! ```text
//! ## OUT0401
//! What it means.
//! Hurts: what an operator sees when nobody repairs it.
//! Wrong:
//! --- VirtualService reviews        (or `--- raw`: the lines as they are)
//! hosts: [reviews]                  (the document's spec)
//! Right:
//! --- VirtualService reviews
//! ...
//! ```

use std::fmt::Write as _;

use super::Code;

const TEXTS: [&str; 6] = [
    include_str!("../../stories/1-syntax.txt"),
    include_str!("../../stories/2-values.txt"),
    include_str!("../../stories/3-references.txt"),
    include_str!("../../stories/4-conflicts.txt"),
    include_str!("../../stories/5-behaviour.txt"),
    include_str!("../../stories/6-support.txt"),
];

/// What `outrigger explain` tells of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Story {
    /// What it means.
    pub meaning: &'static str,
    /// What happens if nobody repairs it.
    pub hurts: &'static str,
    /// Documents in which it is found.
    pub wrong: Example,
    /// The same, repaired.
    pub right: Example,
}

/// Documents of a story, in short form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Example(&'static str);

impl Example {
    /// As whole documents, to be applied as they are.
    #[must_use]
    pub fn yaml(self) -> String {
        let mut text = String::new();
        let mut raw = false;
        for line in self.0.lines() {
            if line.trim_end() == "--- raw" {
                raw = true;
            } else if let Some(heading) = line.strip_prefix("--- ").filter(|_| !raw) {
                head(&mut text, heading);
            } else if raw {
                writeln!(text, "{line}").ok();
            } else {
                writeln!(text, "  {line}").ok();
            }
        }
        text
    }
}

/// `VirtualService shop/reviews`, as the first lines of a document.
fn head(text: &mut String, heading: &str) {
    let (kind, name) = heading.trim().split_once(' ').unwrap_or((heading, "a"));
    let group = match kind {
        "DestinationPolicy" | "ExtensionProvider" => "outrigger.dev",
        "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication" => {
            "security.istio.io"
        }
        _ => "networking.istio.io",
    };
    if !text.is_empty() {
        text.push_str("---\n");
    }
    writeln!(text, "apiVersion: {group}/v1\nkind: {kind}\nmetadata:").ok();
    match name.split_once('/') {
        Some((namespace, name)) => {
            writeln!(text, "  name: {name}\n  namespace: {namespace}").ok();
        }
        None => {
            writeln!(text, "  name: {name}").ok();
        }
    }
    text.push_str("spec:\n");
}

/// A test holds that there is one for each code.
pub(super) fn of(code: Code) -> Story {
    const NOTHING: Story = Story {
        meaning: "",
        hurts: "",
        wrong: Example(""),
        right: Example(""),
    };
    let sections = TEXTS.iter().flat_map(|text| {
        text.split("\n## ")
            .flat_map(|part| part.strip_prefix("## ").or(Some(part)))
    });
    let mut wanted = sections.filter_map(|section| section.strip_prefix(code.as_str()));
    wanted.next().and_then(told).unwrap_or(NOTHING)
}

fn told(section: &'static str) -> Option<Story> {
    let (meaning, rest) = section.split_once("\nHurts: ")?;
    let (hurts, rest) = rest.split_once("\nWrong:\n")?;
    let (wrong, right) = rest.split_once("\nRight:\n")?;
    Some(Story {
        meaning: meaning.trim(),
        hurts: hurts.trim(),
        wrong: Example(wrong.trim_end()),
        right: Example(right.trim_end()),
    })
}
