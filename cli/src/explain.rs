//! `outrigger explain CODE`: the story of a finding; without a code, the list of all.

use std::fmt::Write as _;

use clap::Args;
use outrigger_policy::{Code, Severity};
use serde_json::{Value, json};

use crate::{
    failure::Failure,
    output::{Output, OutputArgs, Table, print, print_json},
};

/// Tell the story of a finding: what it means, how it hurts, what to write instead.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger explain OUT0501
  outrigger explain | grep retries")]
pub(crate) struct ExplainArgs {
    /// Code of a finding, e.g. OUT0401 or 401; none lists all.
    code: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let Some(text) = &args.code else {
        match args.output.output {
            Output::Text => print(&list())?,
            Output::Json => {
                let all = Code::ALL.iter().map(|&code| to_json(code));
                print_json(&Value::Array(all.collect()))?;
            }
        }
        return Ok(());
    };
    let code: Code = text
        .parse()
        .map_err(|error: outrigger_policy::UnknownCode| {
            Failure::Misused(format!("{text}: {error}"))
        })?;
    match args.output.output {
        Output::Text => print(&story(code))?,
        Output::Json => print_json(&to_json(code))?,
    }
    Ok(())
}

fn list() -> String {
    let mut text = String::new();
    let mut group = "";
    let mut table = Table::new(&["CODE", "SEVERITY", "WHAT"]);
    for &code in Code::ALL {
        if code.group() != group {
            if !group.is_empty() {
                writeln!(text, "{group}\n{}", table.render()).ok();
                table = Table::new(&["CODE", "SEVERITY", "WHAT"]);
            }
            group = code.group();
        }
        table.row(vec![
            code.to_string(),
            severity(code.severity()).to_owned(),
            code.title().to_owned(),
        ]);
    }
    write!(text, "{group}\n{}", table.render()).ok();
    text
}

fn story(code: Code) -> String {
    let story = code.story();
    format!(
        "{code} ({}): {}\n\n{}\n\nHow it hurts: {}\n\nWrong:\n\n{}\nRight:\n\n{}",
        severity(code.severity()),
        code.title(),
        story.meaning,
        story.hurts,
        indented(&story.wrong.yaml()),
        indented(&story.right.yaml()),
    )
}

fn indented(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| format!("    {line}").trim_end().to_owned() + "\n");
    lines.collect()
}

fn to_json(code: Code) -> Value {
    let story = code.story();
    json!({
        "code": code.as_str(),
        "severity": severity(code.severity()),
        "group": code.group(),
        "title": code.title(),
        "meaning": story.meaning,
        "hurts": story.hurts,
        "wrong": story.wrong.yaml(),
        "right": story.right.yaml(),
    })
}

const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/FINDINGS.md`, as it has to be.
    fn findings() -> String {
        let mut text = "# Findings\n\nEverything that `outrigger analyze` and `outrigger apply` say about documents has a code. `outrigger explain CODE` \
                        tells its story\nwith a wrong and a right document; the stories stand in `control-plane/policy/stories`, and a test applies every one of \
                        them.\nA code never changes its meaning. An *error* is refused, a *warning* hardly does what was meant, an *info* is good to know.\n"
            .to_owned();
        let mut group = "";
        for &code in Code::ALL {
            if code.group() != group {
                group = code.group();
                write!(
                    text,
                    "\n## {}xx: {group}\n\n| code | severity | what | how it hurts |\n|---|---|---|---|\n",
                    code.as_str().get(..5).unwrap_or_default()
                ).ok();
            }
            let cell = |text: &str| text.replace('|', "\\|").replace('<', "&lt;");
            writeln!(
                text,
                "| `{code}` | {} | {} | {} |",
                severity(code.severity()),
                cell(code.title()),
                cell(code.story().hurts)
            )
            .ok();
        }
        text
    }

    #[test]
    fn docs_findings_lists_every_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/FINDINGS.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, findings()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == findings(),
            "docs/FINDINGS.md is not what the codes say; run this test with UPDATE_DOCS=1"
        );
    }

    #[test]
    fn a_story_shows_documents_that_can_be_copied() {
        let text = story(Code::RetriedWrites);
        assert!(
            text.starts_with("OUT0501 (warning): retries that may do a write twice\n"),
            "{text}"
        );
        assert!(
            text.contains("\n    apiVersion: networking.istio.io/v1\n    kind: VirtualService\n"),
            "{text}"
        );
        assert_eq!(
            list()
                .lines()
                .filter(|line| line.starts_with("OUT0"))
                .count(),
            Code::ALL.len()
        );
    }
}
