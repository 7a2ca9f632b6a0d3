//! Instructions by which the kernel drops what a socket does not want, in the form of bpf(4): a jump counts the
//! instructions that it leaves out.

use nix::libc;
use socket2::SockFilter;

/// Loads `size`, a `BPF_B`, `BPF_H` or `BPF_W`, from so many bytes after the start.
pub(crate) fn load(size: u32, at: u32) -> SockFilter {
    instruction(libc::BPF_LD | libc::BPF_ABS | size, (0, 0), at)
}

/// The same behind an IPv4 header that begins at `header`, whatever its length.
pub(crate) fn load_behind_ipv4(size: u32, header: u32, at: u32) -> [SockFilter; 2] {
    [
        instruction(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, (0, 0), header),
        instruction(libc::BPF_LD | libc::BPF_IND | size, (0, 0), header + at),
    ]
}

/// Keeps these bits of what was loaded.
pub(crate) fn mask(bits: u32) -> SockFilter {
    instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, (0, 0), bits)
}

/// Leaves out `then` instructions if what was loaded is `value`, and `otherwise` if not.
pub(crate) fn equal(value: u32, then: u8, otherwise: u8) -> SockFilter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, (then, otherwise), value)
}

/// Takes all of it.
pub(crate) fn take() -> SockFilter {
    instruction(libc::BPF_RET | libc::BPF_K, (0, 0), u32::MAX)
}

/// Takes nothing of it.
pub(crate) fn leave() -> SockFilter {
    instruction(libc::BPF_RET | libc::BPF_K, (0, 0), 0)
}

fn instruction(code: u32, (then, otherwise): (u8, u8), value: u32) -> SockFilter {
    // The codes have 8 bits.
    SockFilter::new(u16::try_from(code).unwrap_or_default(), then, otherwise, value)
}
