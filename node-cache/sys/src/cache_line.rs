//! Memory in units of one cache line of the processor.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::sync::atomic::AtomicU64;

/// 64-bit words of one cache line.
pub const WORDS_PER_LINE: usize = 8;

/// Eight words, aligned to a cache line of the processor, which they fill.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Line(pub [AtomicU64; WORDS_PER_LINE]);

/// Allocates `lines` cache lines of zeros. Pages that nothing was written to take no memory yet. When the allocation
/// fails the process is aborted, as with every allocation.
#[must_use]
#[allow(unsafe_code)]
pub fn zeroed(lines: usize) -> Box<[Line]> {
    // Fails when the size exceeds the address space.
    let Ok(layout) = Layout::array::<Line>(lines) else { handle_alloc_error(Layout::new::<Line>()) };
    if lines == 0 {
        return Box::default();
    }
    // SAFETY: the layout is not empty and is the layout of `lines` lines, for which all zeros are a valid value. From
    // here on the box is the only owner, and it frees the memory with the same layout.
    unsafe {
        let first = alloc_zeroed(layout);
        if first.is_null() {
            handle_alloc_error(layout);
        }
        Box::from_raw(std::ptr::slice_from_raw_parts_mut(first.cast(), lines))
    }
}
