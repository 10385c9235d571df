//! The C library's heap.

/// Has all threads share one arena. By itself glibc gives each thread its own, and what one has freed no other one uses. To be
/// called before there are threads; does nothing where the library is another one.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: this sets a number of the allocator (mallopt(3)), which takes its own lock for it.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
