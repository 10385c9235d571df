//! Settings of the C library's allocator.

/// Makes all threads share one arena of glibc's allocator. By default glibc gives each thread an arena of its own, and
/// memory that one thread frees is not reused by another. Must be called before the first thread is started; does
/// nothing with another C library.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: mallopt(3) sets a parameter of the allocator and takes the allocator's lock for it.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
