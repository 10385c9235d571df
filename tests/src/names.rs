//! Endless sequence of names to query.

use hickory_proto::rr::Name;

/// Iterator over the given names in turn, without end. A first label `*` is replaced by a unique one, so that no cache
/// has the answer.
pub(crate) struct NameCycle<'a> {
    names: &'a [Name],
    run: u32,
    next: usize,
}

impl<'a> NameCycle<'a> {
    /// Begins with the first of `names`.
    pub(crate) fn new(names: &'a [Name]) -> Self {
        Self { names, run: rand::random(), next: 0 }
    }
}

impl Iterator for NameCycle<'_> {
    type Item = Name;

    fn next(&mut self) -> Option<Name> {
        let name = self.names.get(self.next.checked_rem(self.names.len())?)?;
        let number = self.next;
        self.next += 1;
        if !name.is_wildcard() {
            return Some(name.clone());
        }
        let label = format!("n{number}-{:08x}", self.run);
        Some(name.base_name().prepend_label(label).unwrap_or_else(|_| name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_becomes_a_new_name_each_time() {
        let names = ["a.example.", "*.example."].map(|name| Name::from_ascii(name).unwrap());
        let cycle: Vec<_> = NameCycle::new(&names).take(4).collect();
        assert_eq!(cycle[0], names[0]);
        assert_eq!(cycle[2], names[0]);
        assert!(cycle[1] != cycle[3] && names[1].base_name().zone_of(&cycle[1]), "{cycle:?}");
        assert_ne!(cycle[1], NameCycle::new(&names).nth(1).unwrap());
    }

    #[test]
    fn no_names_are_no_turns() {
        assert!(NameCycle::new(&[]).next().is_none());
    }
}
