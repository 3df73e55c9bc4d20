use std::{fmt::Write as _, rc::Rc};

use super::{Document, Node, Value, read};
use crate::{
    parse::ParseLimits,
    report::{Mark, Report},
};

fn read_all(text: &str) -> (Vec<Document>, Vec<String>) {
    read_within(text, &ParseLimits::default())
}

fn read_within(text: &str, limits: &ParseLimits) -> (Vec<Document>, Vec<String>) {
    let mut report = Report::new("f", Mark { line: 1, column: 1 });
    let documents = read(text, limits, &mut report);
    let errors = report.into_errors();
    (documents, errors.iter().map(ToString::to_string).collect())
}

/// The tree, on one line, with places: `{a@1:1: 1@1:4}`.
fn drawn(node: &Node) -> String {
    let Mark { line, column } = node.mark;
    let value = match &node.value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(text) => text.clone(),
        Value::Text { text, .. } => format!("{text:?}"),
        Value::Sequence(items) => {
            let items: Vec<String> = items.iter().map(|item| drawn(item)).collect();
            return format!("[{}]", items.join(", "));
        }
        Value::Mapping(pairs) => {
            let pairs: Vec<String> = pairs
                .iter()
                .map(|pair| format!("{}: {}", pair.key, drawn(&pair.value)))
                .collect();
            return format!("{{{}}}", pairs.join(", "));
        }
    };
    format!("{value}@{line}:{column}")
}

fn tree(text: &str) -> String {
    let (documents, errors) = read_all(text);
    assert_eq!(errors, Vec::<String>::new(), "{text}");
    let roots: Vec<&Rc<Node>> = documents.iter().map(|document| &document.root).collect();
    roots
        .iter()
        .map(|root| drawn(root))
        .collect::<Vec<_>>()
        .join(" --- ")
}

#[test]
fn scalars_have_the_type_of_yaml_1_2() {
    for (text, expected) in [
        ("10", "10@1:1"),
        ("\"10\"", "\"10\"@1:1"),
        ("'true'", "\"true\"@1:1"),
        ("true", "true@1:1"),
        ("False", "false@1:1"),
        ("yes", "\"yes\"@1:1"),
        ("1.10", "1.10@1:1"),
        ("-1e3", "-1e3@1:1"),
        (".5", ".5@1:1"),
        (".", "\".\"@1:1"),
        ("1.2.3", "\"1.2.3\"@1:1"),
        ("0x1F", "0x1F@1:1"),
        ("0o17", "0o17@1:1"),
        ("0xZZ", "\"0xZZ\"@1:1"),
        ("1e", "\"1e\"@1:1"),
        ("v1", "\"v1\"@1:1"),
        ("!!str 10", "\"10\"@1:7"),
        ("! 10", "\"10\"@1:3"),
        ("!!int '10'", "10@1:7"),
    ] {
        assert_eq!(tree(text), expected, "{text}");
    }
}

#[test]
fn columns_count_characters_and_lines_any_line_end() {
    assert_eq!(
        tree("ä: \"ö\" # ü\r\nb: 'x'\r\n"),
        r#"{ä: "ö"@1:4, b: "x"@2:4}"#
    );
    assert_eq!(
        tree("\u{feff}a: {bé: x, c: y}"),
        r#"{a: {bé: "x"@1:9, c: "y"@1:15}}"#
    );
}

#[test]
fn empty_documents_are_skipped() {
    assert_eq!(tree(""), "");
    assert_eq!(
        tree("---\n---\n# only a comment\n---\na: 1\n...\n"),
        "{a: 1@5:4}"
    );
}

#[test]
fn an_alias_is_the_value_where_it_was_written() {
    assert_eq!(
        tree("a: &x {p: 1}\nb: *x\nc: &y z\n*y : 2\n"),
        r#"{a: {p: 1@1:11}, b: {p: 1@1:11}, c: "z"@3:7, z: 2@4:6}"#
    );
}

#[test]
fn a_merge_key_adds_what_is_absent() {
    assert_eq!(
        tree("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: {<<: [*x, {p: 9, r: 4}]}\n"),
        "{a: {p: 1@1:11, q: 2@1:17}, b: {q: 3@2:16, p: 1@1:11}, c: {p: 1@1:11, q: 2@1:17, r: 4@3:24}}"
    );
}

#[test]
fn a_documents_text_is_its_bytes() {
    let text = "# head\na: 1\n--- # why\nb: 2\n...\n# between\n---\nc: 3\n# tail";
    let (documents, errors) = read_all(text);
    assert_eq!(errors, Vec::<String>::new());
    let texts: Vec<(&str, u32, u32)> = documents
        .iter()
        .map(|d| {
            (
                text.get(d.text.clone()).expect("its bytes"),
                d.start.line,
                d.start.column,
            )
        })
        .collect();
    assert_eq!(
        texts,
        [
            ("# head\na: 1\n", 1, 1),
            (" # why\nb: 2\n", 3, 4),
            ("c: 3\n# tail", 8, 1)
        ]
    );
}

#[test]
fn broken_text_is_refused_with_its_place() {
    let table: &[(&str, &[&str])] = &[
        (
            "a: 1\na: 2\nb: {c: 1, c: 2}",
            &[
                "f:2:1: the key \"a\" is there twice, first in line 1, column 1; keep one",
                "f:3:11: the key \"c\" is there twice, first in line 3, column 5; keep one",
            ],
        ),
        (
            "a:\n\tb: 1\n",
            &["f:2:2: found a tab in the indentation; YAML wants spaces"],
        ),
        (
            "a: [1\nb: 2\n---\nc: [}\n---\nd: 1\n",
            &[
                "f:2:2: not YAML: illegal placement of ':' indicator",
                "f:4:4: not YAML: mismatched bracket '[' closed by '}'",
            ],
        ),
        (
            "a: 1\na b\nc: 2\n",
            &[
                "f:2:1: found a line that is neither \"key: value\" nor an item of a list; is a colon missing, \
             or the indentation wrong?",
            ],
        ),
        (
            "a: *b\n",
            &[
                "f:1:4: this alias (*) has no anchor (&) before it in the document; quote the text if none is \
             meant",
            ],
        ),
        (
            "a: &x [*x]\n",
            &["f:1:8: this alias stands inside the value that it refers to; write the value out"],
        ),
        (
            "a: 1\n\0b: 2\n",
            &[
                "f:2:1: found the control character U+0000, which YAML does not allow; is this a text file?",
            ],
        ),
        (
            "%YAML 1.2\n---\na: 1",
            &["f:1:1: YAML directives (%) are not supported yet; remove the line"],
        ),
        (
            "a: !!binary aGk=",
            &["f:1:13: the tag \"!!binary\" has no meaning here; remove it"],
        ),
        (
            "a: !x {}",
            &["f:1:7: the tag \"!x\" has no meaning here; remove it"],
        ),
        (
            "a: !!int x",
            &["f:1:10: the text \"x\" does not fit its tag \"!!int\"; remove the tag"],
        ),
        (
            "[a]: 1\n~: 2",
            &[
                "f:1:1: found a list as a key, want a text",
                "f:2:1: found nothing as a key, want a text",
            ],
        ),
        (
            "a: {<<: 1}",
            &["f:1:9: \"<<\" merges mappings; found the number 1"],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(read_all(text).1, *expected, "{text}");
    }
}

#[test]
fn a_document_behind_a_broken_one_is_still_read() {
    let (documents, errors) = read_all("a: }\n---\nb: 1\n---\nc: ]\n---\nd: 2\n");
    assert_eq!(errors.len(), 2, "{errors:?}");
    let roots: Vec<String> = documents.iter().map(|d| drawn(&d.root)).collect();
    assert_eq!(roots, ["{b: 1@3:4}", "{d: 2@7:4}"]);
}

#[test]
fn a_text_past_its_size_is_refused_unread() {
    let text = "a: 1\n".repeat(4 << 20);
    let (documents, errors) = read_all(&text);
    assert_eq!(documents.len(), 0);
    assert_eq!(
        errors,
        [
            "f:209716:2: the text has 20971520 bytes, and this is where the limit of 1048576 is passed; split \
         it into several files, or remove what is not a policy"
        ]
    );
}

#[test]
fn aliases_of_aliases_are_counted_in_full() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..40 {
        let below = format!("*a{}", level - 1);
        let nine = vec![below; 9].join(", ");
        writeln!(text, "a{level}: &a{level} [{nine}]").expect("a String takes everything");
    }
    let (documents, errors) = read_all(&text);
    assert_eq!(documents.len(), 0);
    assert_eq!(
        errors,
        [
            "f:6:20: more than 250000 values up to here, aliases counted in full; split the file, or write out \
         what its aliases (*) stand for"
        ]
    );
}

#[test]
fn a_long_text_behind_many_aliases_is_counted_by_its_length() {
    let long = "x".repeat(500_000);
    let text = format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 10_000].join(", "));
    let (_, errors) = read_all(&text);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].starts_with("f:2:33: more than 250000 values"),
        "{errors:?}"
    );
}

#[test]
fn nesting_is_refused_before_it_costs_stack() {
    let wants = "nested more than 64 levels deep; no policy needs that";
    let indented = (0..10_000).fold(String::new(), |mut text, depth| {
        writeln!(text, "{}a:", " ".repeat(depth.min(90))).expect("a String takes everything");
        text
    });
    let aliases = (1..70).fold("a0: &a0 [x]\n".to_owned(), |mut text, level| {
        writeln!(text, "a{level}: &a{level} [*a{}]", level - 1).expect("a String takes everything");
        text
    });
    for text in [
        "[".repeat(10_000),
        "{a: ".repeat(10_000),
        "- ".repeat(10_000),
        "? ".repeat(10_000),
        indented,
        aliases,
    ] {
        let (documents, errors) = read_all(&text);
        assert_eq!(documents.len(), 0);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].ends_with(wants), "{errors:?}");
    }
    assert!(
        read_all(&format!("{}{}", "[".repeat(64), "]".repeat(64)))
            .1
            .is_empty()
    );
}

#[test]
fn documents_are_counted() {
    let limits = ParseLimits {
        max_documents: 2,
        ..ParseLimits::default()
    };
    let (documents, errors) = read_within("a: 1\n---\na: 1\n---\n---\na: 1\n", &limits);
    assert_eq!(documents.len(), 2);
    assert_eq!(
        errors,
        ["f:6:1: more than 2 documents in one file; split it"]
    );
}
