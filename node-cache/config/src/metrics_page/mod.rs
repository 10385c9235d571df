//! Common parts of the metrics pages of all programs: the text format that a scraper asks for, and the series that
//! every process has.

mod process;
mod text_format;

pub use process::{BuildInfo, ProcessUsage, process_text};
pub use text_format::TextFormat;

/// Last line of a page in OpenMetrics.
pub const END: &str = "# EOF\n";
