//! Collects what is wrong with one file while it is read: positions made whole, a bound on how much.
//! It never decides whether something is wrong; `yaml` and `decode` do.

use std::sync::Arc;

use crate::{Code, Diagnostic, Position, Severity};

/// Errors kept for one file. More would not be read, and a generated file could have a million.
pub(crate) const MAX_ERRORS: usize = 50;

/// A place in the text, from 1. [`Report`] adds the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Mark {
    /// From a line that counts from 1 and a column that counts from 0, as the YAML parser does.
    pub(crate) fn of(line: usize, column: usize) -> Self {
        let bounded = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            line: bounded(line),
            column: bounded(column.saturating_add(1)),
        }
    }

    /// Of the byte at `offset`; a text shorter than that gives its end.
    pub(crate) fn at_byte(text: &[u8], offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |newline| newline + 1);
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        // Characters, not bytes: a continuation byte does not start one.
        let column = before.iter().skip(line_start);
        Self::of(line, column.filter(|&&byte| byte & 0xC0 != 0x80).count())
    }
}

/// The errors of one file, and what the file is called.
#[derive(Debug)]
pub(crate) struct Report {
    file: Arc<str>,
    /// Where the text starts in the operator's file: 1:1, except for a document read again from a store.
    origin: Mark,
    errors: Vec<Diagnostic>,
}

impl Report {
    pub(crate) fn new(file: &str, origin: Mark) -> Self {
        Self {
            file: file.into(),
            origin,
            errors: Vec::new(),
        }
    }

    pub(crate) fn position(&self, mark: Mark) -> Position {
        let column = if mark.line == 1 {
            mark.column.saturating_add(self.origin.column.max(1) - 1)
        } else {
            mark.column
        };
        Position {
            file: Arc::clone(&self.file),
            line: mark.line.saturating_add(self.origin.line.max(1) - 1),
            column,
        }
    }

    /// `line 3, column 5`, for a second place inside a message.
    pub(crate) fn place(&self, mark: Mark) -> String {
        let position = self.position(mark);
        format!("line {}, column {}", position.line, position.column)
    }

    pub(crate) fn error(&mut self, mark: Mark, path: String, message: impl Into<String>) {
        self.error_at(self.position(mark), path, message);
    }

    pub(crate) fn error_at(
        &mut self,
        position: Position,
        path: String,
        message: impl Into<String>,
    ) {
        if self.errors.len() < MAX_ERRORS {
            let message = message.into();
            self.errors.push(Diagnostic {
                code: Code::of_refusal(&path, &message),
                severity: Severity::Error,
                object: None,
                position,
                path,
                message,
            });
        }
    }

    /// No further error would be kept.
    pub(crate) fn full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// Sorted by position; of several at one place the first found stays first.
    pub(crate) fn into_errors(mut self) -> Vec<Diagnostic> {
        self.errors.sort_by(|a, b| a.position.cmp(&b.position));
        self.errors
    }
}
