//! Memory that has been freed, but is kept by the allocator.

use nix::libc;

/// Gives the system back what is free in between what is not: by itself, the C library only gives back what lies above all
/// that is in use. Other threads that allocate meanwhile wait for it.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "malloc_trim(3) has no safe wrapper")]
    // SAFETY: it takes no pointer, may be called by any thread, and touches no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
