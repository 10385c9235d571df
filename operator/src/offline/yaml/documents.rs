//! Documents of a YAML file.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use serde_json::Value;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};

use crate::offline::yaml::lines::{Content, Lines, Node};

/// Document of a file.
#[derive(Clone, Debug)]
pub(in crate::offline) struct Document {
    /// Value.
    pub(in crate::offline) value: Value,
    /// Lines of its fields.
    pub(in crate::offline) lines: Lines,
}

/// Error of a document that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::offline) struct Syntax {
    /// Line.
    pub(in crate::offline) line: usize,
    /// Problem.
    pub(in crate::offline) message: String,
}

/// Parses the documents of a file. Empty ones are left out.
///
/// The parser of the values tells no lines of values that are as they should be, so the events of the parser below it
/// are read for these.
pub(in crate::offline) fn parse(text: &str) -> (Vec<Document>, Vec<Syntax>) {
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => {
                problems.push(Syntax { line: error.marker().line(), message: error.info() });
                break;
            }
        }
    }
    let mut starts = builder.roots.iter().map(|root| with_indentation(text, root.start)).chain([text.len()]).peekable();
    for root in &builder.roots {
        let start = starts.next().unwrap_or_default();
        let end = starts.peek().copied().unwrap_or(text.len());
        let Some(node) = &root.node else { continue };
        // Blank lines in front keep the numbers of lines in messages.
        let padded = "\n".repeat(root.line.saturating_sub(1)) + &quoted(text, start..end, &builder.overflows);
        match serde_saphyr::from_str::<Value>(&padded) {
            Ok(Value::Null) => {}
            Ok(value) => documents.push(Document { value, lines: Lines::new(node.clone()) }),
            Err(error) => {
                let line = error.location().map_or(root.line, |location| location.line() as usize);
                problems.push(Syntax { line, message: first_sentence(&error) });
            }
        }
    }
    (documents, problems)
}

/// Returns the position of a document with the indentation of its first line. For the parser a document without `---`
/// begins at its first key: without its indentation, the other lines of a file that is indented as a whole would be
/// deeper.
fn with_indentation(text: &str, start: usize) -> usize {
    text.get(..start).unwrap_or_default().trim_end_matches(' ').len()
}

/// Returns a part of a text with quotes around the scalars at these places.
fn quoted(text: &str, part: Range<usize>, places: &[Range<usize>]) -> String {
    let mut quoted = String::new();
    let mut position = part.start;
    let within = places.iter().filter(|place| part.start <= place.start && place.end <= part.end);
    for place in within {
        let [before, scalar] = [position..place.start, place.clone()].map(|range| text.get(range).unwrap_or_default());
        quoted += &format!("{before}\"{scalar}\"");
        position = place.end;
    }
    quoted + text.get(position..part.end).unwrap_or_default()
}

/// Returns whether a plain scalar has the form of a number beyond all numbers, such as `209020e321`. It is a text to
/// the API server and to kubectl, which writes it without quotes: every hundredth name of a revision looks like that.
fn is_overflow(scalar: &str) -> bool {
    scalar.ends_with(|last: char| last.is_ascii_digit()) && scalar.parse::<f64>().is_ok_and(f64::is_infinite)
}

/// Returns the message of an error without the place, which stands before it.
fn first_sentence(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// Document that is being read.
struct Root {
    /// Position of the first octet.
    start: usize,
    /// Line of the first octet.
    line: usize,
    /// Node; `None` until it is complete.
    node: Option<Rc<Node>>,
}

/// Builds the nodes of all documents from the events of the parser.
#[derive(Default)]
struct Builder {
    roots: Vec<Root>,
    /// Collections that are not complete: line, anchor and items.
    open: Vec<Collection>,
    /// Nodes by their anchor.
    anchors: HashMap<usize, Rc<Node>>,
    /// Places of the plain scalars that are numbers beyond all numbers, in octets.
    overflows: Vec<Range<usize>>,
}

struct Collection {
    line: usize,
    anchor: usize,
    is_mapping: bool,
    items: Vec<Rc<Node>>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) {
        let line = span.start.line();
        match event {
            Event::DocumentStart(..) => {
                self.anchors.clear();
                self.roots.push(Root { start: span.start.byte_offset().unwrap_or_default(), line, node: None });
            }
            Event::Scalar(text, style, anchor, tag) => {
                if style == ScalarStyle::Plain && tag.is_none() && is_overflow(&text) {
                    let [start, end] = [&span.start, &span.end].map(|place| place.byte_offset().unwrap_or_default());
                    self.overflows.push(start..end);
                }
                self.add(Node { line, content: Content::Scalar(text.into()) }, anchor);
            }
            Event::SequenceStart(_, anchor, _) => self.open(line, anchor, false),
            Event::MappingStart(_, anchor, _) => self.open(line, anchor, true),
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => {
                if let Some(node) = self.anchors.get(&anchor) {
                    self.add_node(node.clone());
                }
            }
            _ => {}
        }
    }

    fn open(&mut self, line: usize, anchor: usize, is_mapping: bool) {
        self.open.push(Collection { line, anchor, is_mapping, items: Vec::new() });
    }

    fn close(&mut self) {
        let Some(collection) = self.open.pop() else { return };
        let content = if collection.is_mapping {
            let entries = collection.items.chunks_exact(2).filter_map(|pair| match &pair[0].content {
                Content::Scalar(key) => Some((key.clone(), pair[0].line, pair[1].clone())),
                _ => None,
            });
            Content::Mapping(entries.collect())
        } else {
            Content::Sequence(collection.items)
        };
        self.add(Node { line: collection.line, content }, collection.anchor);
    }

    fn add(&mut self, node: Node, anchor: usize) {
        let node = Rc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.add_node(node);
    }

    fn add_node(&mut self, node: Rc<Node>) {
        match (self.open.last_mut(), self.roots.last_mut()) {
            (Some(collection), _) => collection.items.push(node),
            (None, Some(root)) => root.node = Some(node),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::field_path::FieldPath;
    use serde_json::json;

    const FILE: &str = "# a comment
kind: A
spec: {one: 1,
  two: 2}
---
# another
kind: B
routes:
- suffix: corp.example
  upstreams:
  -
    addresses: [10.0.0.1,
                10.0.0.2]
- suffix: lab.example
pod: &pod
  image: x
same: *pod
---
---
kind: C
";

    fn line(document: &Document, path: &str) -> usize {
        document.lines.line_of(&FieldPath::parse(path))
    }

    #[test]
    fn every_field_of_every_document_has_its_line() {
        let (documents, problems) = parse(FILE);
        assert_eq!(problems, []);
        let kinds: Vec<&Value> = documents.iter().map(|document| &document.value["kind"]).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert_eq!(documents[1].value["same"], json!({"image": "x"}));
        for (document, path, expected) in [
            (0, "kind", 2),
            (0, "spec", 3),
            (0, "spec.two", 4),
            (1, "", 7),
            (1, "routes[0].suffix", 9),
            (1, "routes[0].upstreams[0]", 12),
            (1, "routes[0].upstreams[0].addresses", 12),
            (1, "routes[0].upstreams[0].addresses[1]", 13),
            (1, "routes[lab.example]", 14),
            (1, "same", 17),
            (1, "same.image", 16),
            (2, "kind", 20),
        ] {
            assert_eq!(line(&documents[document], path), expected, "{path}");
        }
    }

    #[test]
    fn a_field_that_is_missing_has_the_line_of_what_is_around_it() {
        let (documents, _) = parse(FILE);
        assert_eq!(line(&documents[1], "routes[1].upstreams"), 14);
        assert_eq!(line(&documents[1], "routes[7].suffix"), 8);
        assert_eq!(line(&documents[0], "metadata.name"), 2);
    }

    #[test]
    fn a_file_that_is_indented_as_a_whole_is_read_with_the_same_lines() {
        let text = "# a comment\nkind: A\nspec:\n  routes:\n  - suffix: corp.example\n    number: 1e999\nlast: 1\n";
        let indented =
            |prefix: &str, text: &str| -> String { text.lines().map(|line| format!("{prefix}{line}\n")).collect() };
        let expected = json!({
            "kind": "A", "spec": {"routes": [{"suffix": "corp.example", "number": "1e999"}]}, "last": 1,
        });
        let behind_others = format!("kind: B\n...\n\n{}---\n  kind: C\n", indented("    ", text));
        for (file, index, first_line) in [(text.to_owned(), 0, 1), (indented("  ", text), 0, 1), (behind_others, 1, 4)]
        {
            let (documents, problems) = parse(&file);
            assert_eq!(problems, [], "{file}");
            assert_eq!(documents[index].value, expected, "{file}");
            for (path, offset) in [("kind", 1), ("spec.routes[0].number", 5), ("last", 6)] {
                assert_eq!(line(&documents[index], path), first_line + offset, "{path} of {file}");
            }
        }
        let (_, problems) = parse("\n  kind: A\n  spec: 1\n  spec: 2\n");
        assert_eq!(problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn a_text_that_looks_like_a_number_beyond_all_numbers_is_a_text() {
        let text = "a: 209020e321\n---\nb: [12e4, -1e999, x]\n1e400: \"1e400\"\nc: 7 # 9e999\nd: é 1e999\ne: 1e999\n";
        let (documents, problems) = parse(text);
        assert_eq!(problems, []);
        let expected = json!({"b": [120_000.0, "-1e999", "x"], "1e400": "1e400", "c": 7, "d": "é 1e999", "e": "1e999"});
        let values: Vec<&Value> = documents.iter().map(|document| &document.value).collect();
        assert_eq!(values, [&json!({"a": "209020e321"}), &expected]);
        let (_, problems) = parse("a: .inf\n");
        assert_eq!(problems.len(), 1, "no value of an object");
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line_and_the_documents_before_are_read() {
        let (documents, problems) = parse("kind: A\n---\nkind: [B\n---\nkind: C\n");
        assert_eq!(documents[0].value, json!({"kind": "A"}));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!((3..=4).contains(&problems[0].line), "{problems:?}");
        let (documents, problems) = parse("kind: A\n---\nkind: B\nspec: 1\nspec: 2\n");
        assert_eq!(documents.len(), 1);
        assert_eq!(problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [5]);
        assert!(problems[0].message.contains("spec"), "{problems:?}");
        assert!(!problems[0].message.contains("line"), "{problems:?}");
    }

    #[test]
    fn aliases_of_aliases_are_refused_before_they_fill_the_memory() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = vec![format!("*a{}", level - 1); 10].join(", ");
            text += &format!("a{level}: &a{level} [{below}]\n");
        }
        let (documents, problems) = parse(&text);
        assert!(documents.is_empty());
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}
