//! Translation of packets: what reaches a node for a service, from wherever, by an interface.
//!
//! | program | on | does |
//! |---|---|---|
//! | `fairway_in` | what comes in | frontend becomes a backend, backend becomes the frontend, and on it goes |
//! | `fairway_out` | what processes of the node send | the answers of backends that are such processes become the frontend's |
//!
//! Those named `_l3` are for interfaces without Ethernet: tunnels. Two are never attached: `fairway_pass` does nothing, beside
//! it the others are timed, and `fairway_look_up` is timed for what looking up takes of the way.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(clippy::needless_pass_by_value, reason = "aya hands the context over by value")]

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ebpf_programs::packet::{BARE, ETHERNET, NEXT, arrive, leave, look_up};

/// By an interface with Ethernet headers.
#[classifier]
fn fairway_in(context: TcContext) -> i32 {
    arrive::<ETHERNET>(&context)
}

/// By an interface without.
#[classifier]
fn fairway_in_l3(context: TcContext) -> i32 {
    arrive::<BARE>(&context)
}

/// By an interface with Ethernet headers.
#[classifier]
fn fairway_out(context: TcContext) -> i32 {
    leave::<ETHERNET>(&context)
}

/// By an interface without.
#[classifier]
fn fairway_out_l3(context: TcContext) -> i32 {
    leave::<BARE>(&context)
}

/// Whatever comes, the next program has its turn.
#[classifier]
fn fairway_pass(_context: TcContext) -> i32 {
    NEXT
}

/// Of a conversation under way, the next program has its turn.
#[classifier]
fn fairway_look_up(context: TcContext) -> i32 {
    look_up::<ETHERNET>(&context)
}

/// The kernel shows it, and lets dual-licensed programs use every helper.
#[expect(unsafe_code, reason = "the loader finds it by its section and name")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

/// A program cannot panic: the verifier accepts no loop without an end.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// On the host there is nothing to run: the kernel runs the functions above.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
