//! The operator's files: `-f FILE`, `-f DIR` (its `*.yaml` and `*.yml`, sorted), `-f -` (standard input).

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use outrigger_policy::{Diagnostic, Object, ParseLimits, parse};
use outrigger_proto::outrigger::v1::SourceFile;

use crate::{diagnostic, failure::Failure};

/// Bytes that are read of one file. Far past what is accepted; bounds what a wrong file can cost.
const MAX_READ: u64 = 64 << 20;
/// Files in one call.
const MAX_FILES: usize = 1_000;

/// Reads what `-f` names, and refuses at once what would be refused for its size, and what holds nothing: whoever names
/// a file means its documents, and an empty pipe is the end of a command that failed.
pub(crate) fn read(names: &[PathBuf], namespace: &str) -> Result<Vec<SourceFile>, Failure> {
    let files = collect(names)?;
    let limits = ParseLimits::default();
    let mut too_large = Vec::new();
    let mut is_empty = !files.is_empty();
    for file in &files {
        match parse(&file.name, &file.text, namespace, &limits) {
            Ok(documents) => is_empty &= documents.is_empty(),
            Err(errors) => {
                is_empty = false;
                // Not worth sending: the same check with the same words, on this side of the wire.
                if file.text.len() > limits.max_bytes {
                    too_large.extend(errors);
                }
            }
        }
    }
    if is_empty {
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        return Err(match names.as_slice() {
            [name] => anyhow!("{name}: holds no document"),
            [first, .., last] => anyhow!(
                "none of the {} files, {first} to {last}, holds a document",
                names.len()
            ),
            [] => anyhow!("no file holds a document"),
        }
        .into());
    }
    refuse(&too_large, &files)?;
    Ok(files)
}

/// The documents in `files`, checked each by itself. What is wrong with them is reported.
pub(crate) fn documents(files: &[SourceFile], namespace: &str) -> Result<Vec<Object>, Failure> {
    let mut objects = Vec::new();
    let mut errors = Vec::new();
    for file in files {
        match parse(&file.name, &file.text, namespace, &ParseLimits::default()) {
            Ok(found) => objects.extend(found),
            Err(found) => errors.extend(found),
        }
    }
    refuse(&errors, files)?;
    Ok(objects)
}

fn refuse(errors: &[Diagnostic], files: &[SourceFile]) -> Result<(), Failure> {
    if errors.is_empty() {
        return Ok(());
    }
    let remarks: Vec<_> = errors.iter().map(diagnostic::from_policy).collect();
    diagnostic::report(&remarks, files);
    Err(Failure::Reported)
}

fn collect(names: &[PathBuf]) -> anyhow::Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for name in names {
        if name.as_os_str() == "-" {
            files.push(SourceFile {
                name: "-".to_owned(),
                text: text("-", std::io::stdin().lock())?,
            });
        } else if name.is_dir() {
            for path in documents_in(name)? {
                files.push(file(&path)?);
            }
        } else {
            files.push(file(name)?);
        }
        if files.len() > MAX_FILES {
            bail!("more than {MAX_FILES} files; apply them in several calls");
        }
    }
    Ok(files)
}

fn documents_in(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading {}", dir.display()))?
            .path();
        let named = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        if named && path.is_file() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        bail!("{} holds no *.yaml or *.yml file", dir.display());
    }
    paths.sort();
    Ok(paths)
}

fn file(path: &Path) -> anyhow::Result<SourceFile> {
    let name = path.display().to_string();
    let reader = File::open(path).with_context(|| format!("reading {name}"))?;
    Ok(SourceFile {
        text: text(&name, reader)?,
        name,
    })
}

fn text(name: &str, reader: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_READ)
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading {name}"))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error
            .as_bytes()
            .get(..error.utf8_error().valid_up_to())
            .unwrap_or_default();
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let last = good
            .rsplit(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let column = String::from_utf8_lossy(last).chars().count() + 1;
        anyhow::anyhow!("{name}:{line}:{column}: not UTF-8; save the file as UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stands_for_its_yaml_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "c.txt", "d.json"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let files = collect(&[dir.path().to_owned()]).unwrap();
        assert_eq!(
            files
                .iter()
                .map(|file| file.text.as_str())
                .collect::<Vec<_>>(),
            ["a.yml", "b.yaml"]
        );
    }

    #[test]
    fn a_missing_file_and_an_empty_directory_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("nothing.yaml");
        let error = collect(std::slice::from_ref(&missing)).unwrap_err();
        assert!(
            format!("{error:#}").contains("nothing.yaml: No such file"),
            "{error:#}"
        );
        let error = collect(&[dir.path().to_owned()]).unwrap_err();
        assert!(error.to_string().contains("holds no *.yaml"), "{error:#}");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused_with_their_place() {
        let error = text("x.yaml", &b"a: b\nc: \xff"[..]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "x.yaml:2:4: not UTF-8; save the file as UTF-8"
        );
    }

    #[test]
    fn files_without_a_document_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty.yaml");
        for text in ["", "# nothing yet\n", "---\n---\n", "\n\n"] {
            fs::write(&path, text).unwrap();
            let error = read(std::slice::from_ref(&path), "default").unwrap_err();
            let Failure::Failed(error) = error else {
                panic!("{text:?}: {error:?}");
            };
            let expected = format!("{}: holds no document", path.display());
            assert_eq!(error.to_string(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_document_in_one_of_the_files_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "# nothing\n").unwrap();
        fs::write(dir.path().join("b.yaml"), "kind: Unknown\n").unwrap();
        // Wrong as it is, the control plane says so.
        assert_eq!(read(&[dir.path().to_owned()], "default").unwrap().len(), 2);
        assert!(read(&[], "default").unwrap().is_empty());
    }
}
