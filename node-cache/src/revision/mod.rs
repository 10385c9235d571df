//! Which configuration applies: from the projected volume to the one in force.
//!
//! ```text
//! volume (files) ──► choose (pure) ──► watch (every 200 ms) ──► InForce
//! ```

mod select;
mod volume;
mod watch;

pub use select::{ActiveRevision, select};
pub use volume::{VolumeContents, read};
pub use watch::watch;
