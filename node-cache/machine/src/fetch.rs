//! Fetching ahead.

/// Asks the processor to bring what is at this place near. It is a hint: it reads nothing, and does nothing on processors
/// for which the compiler has no such instruction.
#[inline]
#[allow(unsafe_code)]
pub fn ahead<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is in every x86-64 processor, and faults nowhere.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
