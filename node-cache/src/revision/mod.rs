//! Active revision of the configuration: from the projected volume to the configuration that this process runs.
//!
//! ```text
//! volume::read (files) ──► select (pure) ──► watch (polls every 200 ms) ──► ActiveRevision
//! ```

mod select;
mod volume;
mod watch;

pub(crate) use select::ActiveRevision;
pub(crate) use watch::watch;
