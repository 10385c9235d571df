//! Prefetching into the processor's cache.

/// Bytes of one cache line of the processor.
const CACHE_LINE_LEN: usize = 64;

/// Prefetches the cache line at the start of `target`. A hint: it reads nothing, and does nothing on processors for
/// which the compiler has no prefetch instruction.
#[inline]
pub fn line<T>(target: &T) {
    prefetch(target);
}

/// Prefetches `lines` cache lines from element `index` of a slice on. Lines behind the end of the slice do no harm.
#[inline]
pub fn lines<T>(slice: &[T], index: usize, lines: usize) {
    let first = slice.as_ptr().wrapping_add(index).cast::<u8>();
    for line in 0..lines {
        prefetch(first.wrapping_add(line * CACHE_LINE_LEN));
    }
}

#[inline]
#[allow(unsafe_code)]
fn prefetch<T>(pointer: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has this instruction. It reads nothing and never faults, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(pointer.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = pointer;
}
