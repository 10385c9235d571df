//! Path of a field in an object: `spec.routes[0].suffix`.

use std::fmt;

/// Path of a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldPath(Vec<Segment>);

/// Step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Field of an object.
    Field(String),
    /// Item of a list, by its position.
    Index(usize),
    /// Value of a map, or item of a list by the value of its key.
    Key(String),
}

impl FieldPath {
    /// Parses a path as messages write it: `spec.routes[corp.example].upstreams[0]`, with or without a first dot.
    pub(super) fn parse(text: &str) -> Self {
        let mut path = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some((inside, behind)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                path = inside.parse().map_or_else(|_| path.key(inside), |index| path.index(index));
                rest = behind;
            } else {
                let name = rest.strip_prefix('.').unwrap_or(rest);
                let length = name.find(['.', '[']).unwrap_or(name.len());
                path = path.field(&name[..length]);
                rest = if length == 0 { "" } else { &name[length..] };
            }
        }
        path
    }

    /// Returns the steps.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Returns the path of a field of this object.
    pub(super) fn field(&self, name: &str) -> Self {
        self.with([Segment::Field(name.to_owned())])
    }

    /// Returns the path of an item of this list.
    pub(super) fn index(&self, index: usize) -> Self {
        self.with([Segment::Index(index)])
    }

    /// Returns the path of a value of this map.
    pub(super) fn key(&self, key: &str) -> Self {
        self.with([Segment::Key(key.to_owned())])
    }

    /// Returns the path of a field below this one.
    pub(super) fn join(&self, below: &Self) -> Self {
        self.with(below.0.iter().cloned())
    }

    /// Returns the path with the keys of maps written as fields, as the API server does where a schema refuses a value.
    pub(super) fn with_keys_as_fields(&self) -> Self {
        let segments = self.0.iter().cloned().map(|segment| match segment {
            Segment::Key(key) => Segment::Field(key),
            other => other,
        });
        Self(segments.collect())
    }

    fn with(&self, segments: impl IntoIterator<Item = Segment>) -> Self {
        Self(self.0.iter().cloned().chain(segments).collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Field(name) if position == 0 => formatter.write_str(name)?,
                Segment::Field(name) => write!(formatter, ".{name}")?,
                Segment::Index(index) => write!(formatter, "[{index}]")?,
                Segment::Key(key) => write!(formatter, "[{key}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_it_was_read() {
        for text in ["spec", "spec.routes[0].suffix", "spec.routes[corp.example]", "spec.nodeCache.nodeSelector[a/b]"] {
            assert_eq!(FieldPath::parse(text).to_string(), text);
        }
        let path = FieldPath::parse("spec.routes[1]").join(&FieldPath::parse(".upstreams"));
        assert_eq!(path, FieldPath::default().field("spec").field("routes").index(1).field("upstreams"));
        assert_eq!(FieldPath::parse("a[b]").with_keys_as_fields().to_string(), "a.b");
        assert_eq!(FieldPath::parse(""), FieldPath::default());
    }
}
