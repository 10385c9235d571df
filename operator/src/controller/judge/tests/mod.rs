//! Promises of the judge.
