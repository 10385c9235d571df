//! Fetching ahead.

/// Octets of a line of the processor's cache.
const LINE: usize = 64;

/// Asks the processor to bring what is at this place near. It is a hint: it reads nothing, and does nothing on processors
/// for which the compiler has no such instruction.
#[inline]
pub fn ahead<T>(place: &T) {
    ahead_of(place);
}

/// The same for a number of lines, from an element of a list on. Those that lie behind the end of the list do no harm.
#[inline]
pub fn lines_ahead<T>(list: &[T], element: usize, lines: usize) {
    let first = list.as_ptr().wrapping_add(element).cast::<u8>();
    for line in 0..lines {
        ahead_of(first.wrapping_add(line * LINE));
    }
}

#[inline]
#[allow(unsafe_code)]
fn ahead_of<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is in every x86-64 processor, reads nothing, and faults nowhere, whatever lies at the place.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
