//! Parts of the benchmark, each with a question of its own.

pub(crate) mod fairness;
pub(crate) mod gate;
pub(crate) mod hits;
pub(crate) mod latency;
pub(crate) mod memory;
pub(crate) mod miss_cpu;
pub(crate) mod misses;
pub(crate) mod readers;
pub(crate) mod replay;
pub(crate) mod start;
pub(crate) mod traces;

#[cfg(test)]
mod tests {
    use super::{fairness, latency, memory, misses, readers, start, traces};
    use crate::report::output;
    use crate::report::table::page_beginning;

    #[test]
    fn published_pages_begin_with_the_text_that_is_printed_now() {
        for (part, title, method) in [
            ("fairness", fairness::TITLE, fairness::METHOD),
            ("latency", latency::TITLE, latency::METHOD),
            ("memory", memory::TITLE, memory::METHOD),
            ("misses", misses::TITLE, misses::METHOD),
            ("readers", readers::TITLE, &readers::method()),
            ("start", start::TITLE, start::METHOD),
            ("traces", traces::TITLE, traces::METHOD),
        ] {
            assert!(output::read(part, "md").starts_with(&page_beginning(title, method)), "{part}");
        }
    }
}
