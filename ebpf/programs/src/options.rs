//! What who loads the programs says: what the kernel lacks, and which way packets take.
//!
//! The verifier knows what is written here before a program is loaded. It walks through one of the two ways only and takes the
//! other out of the program, so that a call there to what the kernel does not know is never looked at.

/// Not 0: there is `bpf_loop`, in Linux 5.17 and later.
#[expect(unsafe_code, reason = "the loader finds it by its name")]
#[unsafe(no_mangle)]
static HAS_LOOP: u32 = 1;

/// Not 0: there is `bpf_set_retval` for connect and sendmsg hooks, in Linux 6.1 and later.
#[expect(unsafe_code, reason = "the loader finds it by its name")]
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u32 = 1;

/// Not 0: what is forwarded goes through the node's stack.
#[expect(unsafe_code, reason = "the loader finds it by its name")]
#[unsafe(no_mangle)]
static FORWARD_BY_STACK: u32 = 0;

/// Whether the kernel runs loops.
#[inline(always)]
pub(crate) fn has_loop() -> bool {
    is_set(&raw const HAS_LOOP)
}

/// Whether a hook may say what its call fails with.
#[inline(always)]
pub(crate) fn has_set_retval() -> bool {
    is_set(&raw const HAS_SET_RETVAL)
}

/// Whether what is forwarded goes through the node's stack.
#[inline(always)]
pub(crate) fn by_stack() -> bool {
    is_set(&raw const FORWARD_BY_STACK)
}

#[inline(always)]
#[expect(unsafe_code, reason = "the compiler is not to know what the loader writes")]
fn is_set(word: *const u32) -> bool {
    // SAFETY: it is one of the words above, which nobody writes while a program runs.
    unsafe { word.read_volatile() != 0 }
}
