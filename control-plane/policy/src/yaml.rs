//! YAML text to trees of [`Node`]s that know where they stand: the only place that sees the YAML parser.
//! ```text
//! text ─ size, characters ─► events ─ anchors, merge keys, limits ─► Document { root, its bytes }
//! ```
//! It knows YAML and nothing of policies. Aliases share their node, and each use is charged for the
//! whole of it, so that a few lines cannot stand for a billion values. Recursion everywhere after this is
//! bounded by the depth that is enforced here.
//! Source: YAML 1.2.2 core schema; `<<` from YAML 1.1, because kubectl reads it.

mod builder;
mod node;
#[cfg(test)]
mod tests;

use serde_saphyr::granit_parser::{ErrorKind, Event, Options, Parser, ScanError, Span};

use self::builder::Builder;
pub(crate) use self::node::{Document, Node, Pair, Value, quoted};
use crate::{
    parse::ParseLimits,
    report::{Mark, Report},
};

/// Reads all documents that are not empty. What is wrong goes to `report`; a document that is not YAML is
/// left out, and the next one is read nevertheless.
pub(crate) fn read(text: &str, limits: &ParseLimits, report: &mut Report) -> Vec<Document> {
    if !within_bounds(text, limits, report) {
        return Vec::new();
    }
    let mut documents = Vec::new();
    let mut parser = Parser::new_from_str_with_options(text, options(limits));
    let mut outline = Outline::new(text);
    let mut builder = Builder::new(limits);
    while let Some(next) = parser.next_event() {
        let step = next.map_err(Stop::Syntax).and_then(|(event, span)| {
            outline.follow(&event, span);
            builder.take(event, span, report)
        });
        match step {
            Ok(None) => {}
            Ok(Some(root)) => {
                if documents.len() >= limits.max_documents {
                    let message = format!(
                        "more than {} documents in one file; split it",
                        limits.max_documents
                    );
                    report.error(root.mark, String::new(), message);
                    return documents;
                }
                documents.push(Document {
                    root,
                    text: 0..0,
                    start: Mark::default(),
                    number: outline.current(),
                });
            }
            Err(Stop::Syntax(error)) => {
                report.error(mark_of(&error), String::new(), syntax(&error, limits));
                builder.abandon();
                if report.full() || !parser.proceed_next_document().unwrap_or(false) {
                    break;
                }
            }
            Err(Stop::Refused(mark, message)) => {
                report.error(mark, String::new(), message);
                return documents;
            }
        }
    }
    outline.place(&mut documents);
    documents
}

/// Why reading does not go on.
pub(crate) enum Stop {
    /// This document is broken; the next may be whole.
    Syntax(ScanError),
    /// A limit: nothing more is read of this text.
    Refused(Mark, String),
}

fn options(limits: &ParseLimits) -> Options {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.disallow_directives = true;
    options.flow_nesting_limit = limits.max_depth;
    options.block_nesting_limit = limits.max_depth;
    options
}

/// Size, and characters that YAML does not allow (a NUL would otherwise read as the end of the text).
fn within_bounds(text: &str, limits: &ParseLimits, report: &mut Report) -> bool {
    if text.len() > limits.max_bytes {
        too_long(text.as_bytes(), limits, report);
        return false;
    }
    let forbidden = text.char_indices().find(|&(_, c)| {
        (c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}'))
            || matches!(c, '\u{FFFE}' | '\u{FFFF}')
    });
    let Some((offset, character)) = forbidden else {
        return true;
    };
    let message = format!(
        "found the control character U+{:04X}, which YAML does not allow; is this a text file?",
        u32::from(character)
    );
    report.error(
        Mark::at_byte(text.as_bytes(), offset),
        String::new(),
        message,
    );
    false
}

/// Reports a text past its limit, at the byte that passes it.
pub(crate) fn too_long(text: &[u8], limits: &ParseLimits, report: &mut Report) {
    let message = format!(
        "the text has {} bytes, and this is where the limit of {} is passed; split it into several \
         files, or remove what is not a policy",
        text.len(),
        limits.max_bytes
    );
    report.error(
        Mark::at_byte(text, limits.max_bytes),
        String::new(),
        message,
    );
}

pub(crate) fn mark(span: Span) -> Mark {
    Mark::of(span.start.line(), span.start.col())
}

fn mark_of(error: &ScanError) -> Mark {
    Mark::of(error.marker().line(), error.marker().col())
}

/// The parser's words where they are good, ours where an operator would wonder.
fn syntax(error: &ScanError, limits: &ParseLimits) -> String {
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => too_deep(limits.max_depth),
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
            "found a tab in the indentation; YAML wants spaces".to_owned()
        }
        ErrorKind::UnknownAnchor => {
            "this alias (*) has no anchor (&) before it in the document; quote the text if none is meant"
                .to_owned()
        }
        ErrorKind::DirectiveDisallowed => {
            "YAML directives (%) are not supported yet; remove the line".to_owned()
        }
        ErrorKind::SimpleKeyExpected => {
            "found a line that is neither \"key: value\" nor an item of a list; is a colon missing, or \
             the indentation wrong?"
                .to_owned()
        }
        ErrorKind::ExpectedBlockMappingKey | ErrorKind::ExpectedBlockSequenceEntry => {
            "this does not fit the lines above it; check its indentation".to_owned()
        }
        ErrorKind::InvalidIndentation => {
            "this line is indented like none of those above it; check its indentation".to_owned()
        }
        _ => format!("not YAML: {}", error.info()),
    }
}

pub(crate) fn too_deep(max_depth: usize) -> String {
    format!("nested more than {max_depth} levels deep; no policy needs that")
}

/// Which bytes belong to which document. Without the `---`, with the comments around it.
struct Outline<'t> {
    text: &'t str,
    /// Start and, once known, end of each document that has started.
    documents: Vec<(usize, Option<usize>)>,
    /// Where the next document starts if it has no `---`.
    implicit_start: usize,
}

impl<'t> Outline<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            text,
            documents: Vec::new(),
            implicit_start: if text.starts_with('\u{FEFF}') { 3 } else { 0 },
        }
    }

    fn follow(&mut self, event: &Event<'_>, span: Span) {
        let start = span.start.byte_offset().unwrap_or(0);
        let end = span.end.byte_offset().unwrap_or(start);
        match event {
            Event::DocumentStart(explicit, _) => {
                self.close(start);
                let from = if *explicit {
                    self.after_marker(end)
                } else {
                    self.implicit_start
                };
                self.documents.push((from, None));
            }
            // An explicit end (`...`) has a width.
            Event::DocumentEnd if end > start => {
                self.close(start);
                self.implicit_start = self.after_marker(end);
            }
            _ => {}
        }
    }

    fn close(&mut self, at: usize) {
        if let Some((_, end)) = self.documents.last_mut() {
            end.get_or_insert(at);
        }
    }

    /// Behind `---` or `...`; behind the end of the line if nothing else stands on it.
    fn after_marker(&self, offset: usize) -> usize {
        let rest = self.text.get(offset..).unwrap_or("");
        let line = rest.split_inclusive('\n').next().unwrap_or("");
        if line.trim().is_empty() {
            offset + line.len()
        } else {
            offset
        }
    }

    fn current(&self) -> usize {
        self.documents.len().saturating_sub(1)
    }

    /// Says of each document which bytes are its own, and where they start.
    fn place(&self, documents: &mut [Document]) {
        let bytes = self.text.as_bytes();
        let (mut line, mut counted) = (1, 0);
        for document in documents {
            document.text = self.text_of(document.number);
            let start = document.text.start;
            // From the document before, not from the start of the text: there may be a thousand.
            let between = bytes.get(counted..start).unwrap_or_default();
            line += between.iter().filter(|&&byte| byte == b'\n').count();
            counted = start;
            let before = self.text.get(..start).unwrap_or_default();
            // A byte order mark has no column, as for the parser.
            let line_start = before.chars().rev().take_while(|&c| c != '\n');
            let column = line_start.filter(|&c| c != '\u{FEFF}').count();
            document.start = Mark::of(line, column);
        }
    }

    fn text_of(&self, document: usize) -> std::ops::Range<usize> {
        let (start, end) = self.documents.get(document).copied().unwrap_or((0, None));
        let end = end.unwrap_or(self.text.len());
        start.min(end)..end
    }
}
