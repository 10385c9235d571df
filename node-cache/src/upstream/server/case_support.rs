//! Whether a server compares names without regard to case (RFC 4343), as far as it has shown. Pure.

/// Names, one after the other, that a server has to deny in mixed case and know in lower case before it is queried in
/// lower case. Each of them is a query of its own, with an ID, a port and a case that whoever is not the server has to
/// guess.
const REQUIRED_MISMATCHES: u32 = 3;

/// Names in mixed case that a server has known, or denied although it knows them in lower case.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CaseSupport {
    has_known_mixed_case: bool,
    /// Names that it denied in mixed case and knew in lower case, since it was first queried.
    mismatches: u32,
}

impl CaseSupport {
    /// Returns whether the server has known a name in mixed case: then its denials of others are true.
    pub(super) const fn is_shown(self) -> bool {
        self.has_known_mixed_case
    }

    /// Records a response with records to a query in mixed case.
    pub(super) const fn record_known(&mut self) {
        *self = Self { has_known_mixed_case: true, mismatches: 0 };
    }

    /// Records a name that the server denied in mixed case and knew in lower case. Returns whether it compares names by
    /// octet. One that has known a name in mixed case does not: the owner of a domain can have his own names denied and
    /// known as he likes.
    pub(super) const fn record_mismatch(&mut self) -> bool {
        self.mismatches = self.mismatches.saturating_add(1);
        !self.has_known_mixed_case && self.mismatches >= REQUIRED_MISMATCHES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_names_are_required_and_one_that_is_known_in_mixed_case_proves_the_contrary() {
        let mut support = CaseSupport::default();
        assert_eq!([(); 3].map(|()| support.record_mismatch()), [false, false, true]);
        assert!(!support.is_shown());
        let mut support = CaseSupport::default();
        assert!(!support.record_mismatch() && !support.record_mismatch());
        support.record_known();
        assert_eq!([(); 4].map(|()| support.record_mismatch()), [false; 4]);
        assert!(support.is_shown());
    }
}
