//! Refusals as an operator sees them: file, line, column, path, what is wrong, and the line itself.
//! ```text
//! error: canary.yaml:12:15: spec.http[0].route[0].weight: "ten" is not a number; write 0 to 100
//!    |
//! 12 |       weight: ten
//!    |               ^
//! ```

use std::fmt::Write as _;

use outrigger_proto::outrigger::v1::{Diagnostic, Position, SourceFile, diagnostic::Severity};
use serde_json::{Value, json};

use crate::output::note;

/// Characters of a source line that are shown.
const MAX_SHOWN: usize = 120;

/// Prints `remarks` on standard error; `files` hold the lines they talk about.
pub(crate) fn report(remarks: &[Diagnostic], files: &[SourceFile]) {
    for remark in remarks {
        note(render(remark, files).trim_end());
    }
}

/// The same as text.
pub(crate) fn rendered(remarks: &[Diagnostic], files: &[SourceFile]) -> String {
    remarks.iter().map(|remark| render(remark, files)).collect()
}

/// The same for programs.
pub(crate) fn to_json(remark: &Diagnostic) -> Value {
    let place = remark.position.clone().unwrap_or_default();
    json!({
        "severity": severity(remark),
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "path": remark.path,
        "message": remark.message,
        "code": remark.code,
    })
}

pub(crate) fn from_policy(remark: &outrigger_policy::Diagnostic) -> Diagnostic {
    Diagnostic {
        severity: match remark.severity {
            outrigger_policy::Severity::Error => Severity::Error.into(),
            outrigger_policy::Severity::Warning => Severity::Warning.into(),
            outrigger_policy::Severity::Info => Severity::Info.into(),
        },
        position: Some(Position {
            file: remark.position.file.to_string(),
            line: remark.position.line,
            column: remark.position.column,
        }),
        path: remark.path.clone(),
        message: remark.message.clone(),
        code: remark.code.to_string(),
    }
}

fn severity(remark: &Diagnostic) -> &'static str {
    match remark.severity() {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

fn render(remark: &Diagnostic, files: &[SourceFile]) -> String {
    let place = remark.position.clone().unwrap_or_default();
    let mut text = format!("{}: ", severity(remark));
    let mut push = |part: &str| {
        if !part.is_empty() {
            text.push_str(part);
            text.push_str(": ");
        }
    };
    push(&place_of(&place));
    push(&remark.path);
    text.push_str(&remark.message);
    if !remark.code.is_empty() {
        text.push_str(&format!(" [{}]", remark.code));
    }
    text.push('\n');
    if let Some(excerpt) = excerpt(&place, files) {
        text.push_str(&excerpt);
    }
    text
}

fn place_of(place: &Position) -> String {
    match (place.line, place.column) {
        (0, _) => place.file.clone(),
        (line, 0) => format!("{}:{line}", place.file),
        (line, column) => format!("{}:{line}:{column}", place.file),
    }
}

/// The source line with a caret under the column.
fn excerpt(place: &Position, files: &[SourceFile]) -> Option<String> {
    let file = files.iter().find(|file| file.name == place.file)?;
    let index = usize::try_from(place.line.checked_sub(1)?).ok()?;
    let line = file.text.lines().nth(index)?;
    let column = usize::try_from(place.column.saturating_sub(1)).ok()?;
    // A long line is shown from where it matters.
    let start = if column < MAX_SHOWN {
        0
    } else {
        column - MAX_SHOWN / 2
    };
    // One blank for a tab, or the caret would stand elsewhere.
    let blank = |c: char| if c.is_control() { ' ' } else { c };
    let shown: String = line
        .chars()
        .skip(start)
        .take(MAX_SHOWN)
        .map(blank)
        .collect();
    let number = place.line.to_string();
    let margin = " ".repeat(number.len());
    let mut text = String::new();
    writeln!(text, "{margin} |\n{number} | {}", shown.trim_end()).ok()?;
    if place.column > 0 {
        writeln!(text, "{margin} | {}^", " ".repeat(column - start)).ok()?;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remark(line: u32, column: u32) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error.into(),
            position: Some(Position {
                file: "a.yaml".to_owned(),
                line,
                column,
            }),
            path: "spec.weight".to_owned(),
            message: "\"ten\" is not a number".to_owned(),
            code: String::new(),
        }
    }

    fn file(text: &str) -> Vec<SourceFile> {
        vec![SourceFile {
            name: "a.yaml".to_owned(),
            text: text.to_owned(),
        }]
    }

    #[test]
    fn a_refusal_shows_the_line_and_points_at_the_column() {
        let shown = render(&remark(2, 11), &file("spec:\n  weight: ten\n"));
        let expected = "error: a.yaml:2:11: spec.weight: \"ten\" is not a number\n  |\n2 |   weight: ten\n  |           ^\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_very_long_line_is_cut_around_the_column() {
        let shown = render(&remark(1, 100_001), &file(&"x".repeat(1 << 20)));
        assert!(
            shown.lines().all(|line| line.len() <= MAX_SHOWN + 4),
            "{shown}"
        );
    }

    #[test]
    fn a_place_that_the_files_do_not_have_is_named_without_excerpt() {
        assert_eq!(render(&remark(9, 1), &file("x")).lines().count(), 1);
        assert_eq!(
            render(&remark(0, 0), &[]),
            "error: a.yaml: spec.weight: \"ten\" is not a number\n"
        );
    }
}
