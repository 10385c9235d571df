//! Texts that pods report, each kept once however many pods report it.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;

/// Maximum sum of the lengths of all texts that are kept.
const MAX_BYTES: usize = 4 << 20;

/// Text that is shared by all pods that report it. A pointer of eight bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Text(Arc<Box<str>>);

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self
    }
}

impl<S: Into<Box<str>>> From<S> for Text {
    fn from(text: S) -> Self {
        Self(Arc::new(text.into()))
    }
}

/// All texts that are kept.
#[derive(Debug, Default)]
pub(super) struct Texts {
    known: HashSet<Text>,
    bytes: usize,
}

impl Texts {
    /// Returns the shared text; `None` when there are too many different ones.
    pub(super) fn intern(&mut self, text: &str) -> Option<Text> {
        if let Some(known) = self.known.get(text) {
            return Some(known.clone());
        }
        if self.bytes + text.len() > MAX_BYTES {
            self.forget_unused();
        }
        if self.bytes + text.len() > MAX_BYTES {
            return None;
        }
        let new = Text::from(text);
        self.bytes += text.len();
        self.known.insert(new.clone());
        Some(new)
    }

    /// Forgets the texts that no report has.
    pub(super) fn forget_unused(&mut self) {
        self.known.retain(|text| Arc::strong_count(&text.0) > 1);
        self.bytes = self.known.iter().map(|text| text.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_forgotten_with_its_last_report() {
        let mut texts = Texts::default();
        let (one, other) = (texts.intern("cluster").unwrap(), texts.intern("cluster").unwrap());
        assert!(Arc::ptr_eq(&one.0, &other.0));
        drop((one, other));
        texts.forget_unused();
        assert_eq!((texts.known.len(), texts.bytes), (0, 0));
    }

    #[test]
    fn texts_without_end_fill_four_mebibytes_and_no_more() {
        let mut texts = Texts::default();
        let long = "x".repeat(1_000);
        let kept: Vec<Text> = (0..10_000).filter_map(|number| texts.intern(&format!("{number} {long}"))).collect();
        assert!(kept.len() < 4_200 && texts.bytes <= MAX_BYTES, "{} {}", kept.len(), texts.bytes);
        drop(kept);
        assert!(texts.intern("another").is_some(), "those that no report has make room");
    }
}
