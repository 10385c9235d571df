//! Lines of the processor's cache.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::sync::atomic::AtomicU64;

/// Words of a line.
pub const WORDS: usize = 8;

/// Words that begin where a line of the processor's cache does, and fill it.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Line(pub [AtomicU64; WORDS]);

/// Lines of zeros. Pages that nothing was written to take no memory yet. Where so many lines cannot be had, the process ends,
/// as with every allocation.
#[must_use]
#[allow(unsafe_code)]
pub fn zeroed(lines: usize) -> Box<[Line]> {
    // More than there can be addresses for.
    let Ok(layout) = Layout::array::<Line>(lines) else { handle_alloc_error(Layout::new::<Line>()) };
    if lines == 0 {
        return Box::default();
    }
    // SAFETY: the layout is not empty; it is that of so many lines, for which all zeros are a value, and from here on the
    // box alone owns them and frees them with the same layout.
    unsafe {
        let first = alloc_zeroed(layout);
        if first.is_null() {
            handle_alloc_error(layout);
        }
        Box::from_raw(std::ptr::slice_from_raw_parts_mut(first.cast(), lines))
    }
}
