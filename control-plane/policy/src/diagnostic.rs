//! What is wrong with a document, and where: the only thing an operator sees of a refusal.

use std::{fmt, sync::Arc};

use crate::{Code, ObjectKey};

/// A place in an operator's file. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// As the operator named it: a path, or `-` for standard input.
    pub file: Arc<str>,
    /// 1 to the number of lines; 0 = unknown.
    pub line: u32,
    /// 1 to the length of the line; 0 = unknown.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Whether a document can be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing of this call is applied.
    Error,
    /// Applied; it hardly does what was meant.
    Warning,
    /// Applied; good to know.
    Info,
}

/// One remark about one place. Displays as
/// `mesh.yaml:14:15: spec.subsets[1].name: "v2" is used twice; name each subset once`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What kind of mistake it is.
    pub code: Code,
    /// Refused, or only remarked upon.
    pub severity: Severity,
    /// The document that it is about; None where that is not known yet, in a text that cannot be read.
    pub object: Option<ObjectKey>,
    /// Where.
    pub position: Position,
    /// Field path, e.g. `spec.http[1].route[0].weight`; empty for syntax errors.
    pub path: String,
    /// What was found and what would be right.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.position)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}
