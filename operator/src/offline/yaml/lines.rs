//! Lines of the fields of a document.

use std::rc::Rc;

use crate::offline::field_path::{FieldPath, Segment};

/// Node of a document, with the lines of what is in it, counted from 1.
#[derive(Debug)]
pub(super) struct Node {
    /// Line on which the node begins.
    pub(super) line: usize,
    /// Content.
    pub(super) content: Content,
}

/// Content of a node.
#[derive(Debug)]
pub(super) enum Content {
    /// Text.
    Scalar(String),
    /// Items.
    Sequence(Vec<Rc<Node>>),
    /// Keys with their lines, and values.
    Mapping(Vec<(String, usize, Rc<Node>)>),
}

/// Lines of the fields of an object.
#[derive(Clone, Debug)]
pub(in crate::offline) struct Lines(Rc<Node>);

impl Lines {
    pub(super) fn new(root: Rc<Node>) -> Self {
        Self(root)
    }

    /// Returns the line on which a field stands: the line of its key, or that of the innermost field around it when it
    /// is not there itself.
    pub(in crate::offline) fn line_of(&self, path: &FieldPath) -> usize {
        self.walk(path).1
    }

    /// Returns the lines of the fields below a path; `None` where nothing is there.
    pub(in crate::offline) fn below(&self, path: &FieldPath) -> Option<Self> {
        self.walk(path).0.map(|node| Self(node.clone()))
    }

    /// Returns the node of a path, if it is there, and the line of the last step that is.
    fn walk(&self, path: &FieldPath) -> (Option<&Rc<Node>>, usize) {
        let (mut node, mut line) = (&self.0, self.0.line);
        for segment in path.segments() {
            let Some((next, next_line)) = node.step(segment) else { return (None, line) };
            (node, line) = (next, next_line);
        }
        (Some(node), line)
    }
}

impl Node {
    fn step(&self, segment: &Segment) -> Option<(&Rc<Self>, usize)> {
        match (&self.content, segment) {
            (Content::Mapping(entries), Segment::Field(name) | Segment::Key(name)) => {
                let (_, line, value) = entries.iter().find(|(key, ..)| key == name)?;
                Some((value, *line))
            }
            (Content::Sequence(items), Segment::Index(index)) => items.get(*index).map(|item| (item, item.line)),
            (Content::Sequence(items), Segment::Key(key)) => {
                items.iter().find(|item| item.has_value(key)).map(|item| (item, item.line))
            }
            _ => None,
        }
    }

    /// Returns whether a value of this mapping is this text.
    fn has_value(&self, text: &str) -> bool {
        let Content::Mapping(entries) = &self.content else { return false };
        entries.iter().any(|(.., value)| matches!(&value.content, Content::Scalar(other) if other == text))
    }
}
