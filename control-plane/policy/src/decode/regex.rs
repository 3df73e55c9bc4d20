//! The regular expressions that requests are matched by: RE2, as our sidecars and stock Envoy both read it.
//!
//! The `regex` crate compiles them; it has more than RE2, or says it otherwise, and what Envoy would refuse or
//! read in another way is refused here. Source: RE2's syntax page; Istio's bound on a pattern.

use regex_syntax::ast::{
    self, AssertionKind, Ast, ClassSetBinaryOpKind, ClassSetItem, Flag, FlagsItemKind,
    HexLiteralKind, LiteralKind, RepetitionKind, RepetitionRange, Span, Visitor,
};

use super::{Decoder, Item, filled_text, http::is_of_a_path, text};
use crate::yaml::quoted;

/// Different regular expressions in one file. Compiling one may take a millisecond.
const MAX_REGEXES: usize = 500;
/// Characters of one (Istio's limit).
const LONGEST_REGEX: usize = 1_024;

const NEST_LIMIT: u32 = 64;

/// An RE2 expression that compiles.
pub(crate) fn regex(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let pattern = filled_text(d, item)?;
    let fault = match d.regexes.get(&pattern) {
        Some(checked) => checked.clone().err(),
        None if pattern.len() > LONGEST_REGEX => Some(format!(
            "has {} bytes; at most {LONGEST_REGEX} are allowed",
            pattern.len()
        )),
        None if d.regexes.len() >= MAX_REGEXES => Some(format!(
            "more than {MAX_REGEXES} regular expressions in one file; split it"
        )),
        None => {
            let checked = compile(&pattern);
            d.regexes.insert(pattern.clone(), checked.clone());
            checked.err()
        }
    };
    match fault {
        None => Some(pattern),
        Some(fault) => {
            d.refuse(
                item,
                format!("the regular expression {} {fault}", quoted(&pattern)),
            );
            None
        }
    }
}

fn compile(pattern: &str) -> Result<(), String> {
    if let Ok(parsed) = ast::parse::ParserBuilder::new()
        .nest_limit(NEST_LIMIT)
        .build()
        .parse(pattern)
    {
        ast::visit(&parsed, Foreign)?;
    }
    regex::RegexBuilder::new(pattern)
        .size_limit(256 << 10)
        .nest_limit(NEST_LIMIT)
        .build()
        .map(|_| ())
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                "needs too much memory; repeat less in it".to_owned()
            }
            // The crate draws the pattern over several lines; its last line says what is wrong.
            other => {
                let drawn = other.to_string();
                let last = drawn.lines().last().unwrap_or_default();
                let reason = last.trim_start_matches("error: ");
                format!("is not RE2: {reason}")
            }
        })
}

/// What takes the place of a match: RE2's rewrite string, of which each group is one of `pattern`.
pub(crate) fn substitution(d: &mut Decoder, item: Item<'_>, pattern: &str) -> Option<String> {
    let text = text(d, item)?;
    // The pattern itself was checked: one that does not compile has been reported.
    let groups = regex::Regex::new(pattern).map_or(9, |regex| regex.captures_len() - 1);
    match substitution_fault(&text, groups) {
        None => Some(text),
        Some(fault) => {
            d.refuse(item, format!("found {}: {fault}", quoted(&text)));
            None
        }
    }
}

fn substitution_fault(text: &str, groups: usize) -> Option<String> {
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            if !is_of_a_path(c) {
                return Some(format!("a path has no {c:?}"));
            }
            continue;
        }
        match rest.next().map(|next| (next, next.to_digit(10))) {
            Some(('\\', _)) => return Some("a path has no '\\\\'".to_owned()),
            Some((_, Some(group))) if group as usize <= groups => {}
            Some((_, Some(group))) => {
                return Some(format!(
                    "\\{group} is a group that the expression does not have; it has {groups}"
                ));
            }
            _ => return Some("what follows \\ has to be a group's number, 0 to 9".to_owned()),
        }
    }
    None
}

/// Finds what RE2 does not have.
struct Foreign;

/// RE2's limit on one repetition.
const MOST_REPEATS: u32 = 1_000;

impl Visitor for Foreign {
    type Output = ();
    type Err = String;

    fn finish(self) -> Result<(), String> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), String> {
        match ast {
            Ast::Flags(set) => flags(&set.flags),
            Ast::Group(group) => group.flags().map_or(Ok(()), flags),
            Ast::Literal(found) => literal(found),
            Ast::Assertion(found) => match found.kind {
                AssertionKind::StartLine
                | AssertionKind::EndLine
                | AssertionKind::StartText
                | AssertionKind::EndText
                | AssertionKind::WordBoundary
                | AssertionKind::NotWordBoundary => Ok(()),
                _ => Err(foreign("a special word boundary", &found.span)),
            },
            Ast::ClassUnicode(class) => unicode(class),
            Ast::Repetition(found) => match &found.op.kind {
                RepetitionKind::Range(range) if most(range) > MOST_REPEATS => Err(format!(
                    "repeats {} times at character {}; RE2 allows {MOST_REPEATS}",
                    most(range),
                    found.op.span.start.offset + 1
                )),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), String> {
        match item {
            ClassSetItem::Literal(found) => literal(found),
            ClassSetItem::Range(range) => literal(&range.start).and_then(|()| literal(&range.end)),
            ClassSetItem::Unicode(class) => unicode(class),
            ClassSetItem::Bracketed(class) => Err(foreign("a class within a class", &class.span)),
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, op: &ast::ClassSetBinaryOp) -> Result<(), String> {
        let what = match op.kind {
            ClassSetBinaryOpKind::Intersection => "an intersection of classes (&&)",
            ClassSetBinaryOpKind::Difference => "a difference of classes (--)",
            ClassSetBinaryOpKind::SymmetricDifference => "a difference of classes (~~)",
        };
        Err(foreign(what, &op.span))
    }
}

fn flags(flags: &ast::Flags) -> Result<(), String> {
    for item in &flags.items {
        match item.kind {
            FlagsItemKind::Negation
            | FlagsItemKind::Flag(
                Flag::CaseInsensitive | Flag::MultiLine | Flag::DotMatchesNewLine | Flag::SwapGreed,
            ) => {}
            FlagsItemKind::Flag(_) => {
                return Err(foreign("a flag other than i, m, s and U", &item.span));
            }
        }
    }
    Ok(())
}

fn literal(found: &ast::Literal) -> Result<(), String> {
    match found.kind {
        LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
        | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong) => {
            Err(foreign("\\u (write \\x{...})", &found.span))
        }
        _ => Ok(()),
    }
}

fn unicode(class: &ast::ClassUnicode) -> Result<(), String> {
    match class.kind {
        ast::ClassUnicodeKind::NamedValue { .. } => {
            Err(foreign("a class with a value", &class.span))
        }
        _ => Ok(()),
    }
}

fn most(range: &RepetitionRange) -> u32 {
    match *range {
        RepetitionRange::Exactly(most)
        | RepetitionRange::AtLeast(most)
        | RepetitionRange::Bounded(_, most) => most,
    }
}

fn foreign(what: &str, span: &Span) -> String {
    format!(
        "is not RE2: it has {what} at character {}",
        span.start.offset + 1
    )
}
