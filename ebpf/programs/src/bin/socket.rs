//! Translation at the socket: what a control group's processes connect to and talk to.
//!
//! | hook | when | does |
//! |---|---|---|
//! | `connect` | a TCP or UDP socket connects | frontend becomes the next backend, or the call is refused |
//! | `sendmsg` | an unconnected UDP socket sends | frontend becomes the exchange's backend, or the call is refused |
//! | `recvmsg` | an unconnected UDP socket received | backend becomes the frontend it stands for |
//! | `getpeername` | the application asks who its peer is | backend becomes the frontend it stands for |
//! | state of TCP | the handshake of a connection is done | how long it took is counted |
//! | release | a socket is closed | it counts for its backend no more |
//!
//! Nothing runs per packet: once connected, a socket talks to its backend as if it had named it.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(clippy::needless_pass_by_value, reason = "aya hands the context over by value")]

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, sock_ops};
use aya_ebpf::programs::{SockAddrContext, SockContext, SockOpsContext};
use ebpf_programs::maps::Maps;
use ebpf_programs::socket::{V4, V6, change_state, close, connect, restore, send};

/// Of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
fn connect4(context: SockAddrContext) -> i32 {
    connect::<V4>(&Maps, &context)
}

/// Of an IPv6 socket, also when it connects to an IPv4-mapped address.
#[cgroup_sock_addr(connect6)]
fn connect6(context: SockAddrContext) -> i32 {
    connect::<V6>(&Maps, &context)
}

/// To an IPv4 address, also from an IPv6 socket.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(context: SockAddrContext) -> i32 {
    send::<V4>(&Maps, &context)
}

/// To an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(context: SockAddrContext) -> i32 {
    send::<V6>(&Maps, &context)
}

/// By an IPv4 socket.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(context: SockAddrContext) -> i32 {
    restore::<V4>(&Maps, &context)
}

/// By an IPv6 socket, also from an IPv4 address.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(context: SockAddrContext) -> i32 {
    restore::<V6>(&Maps, &context)
}

/// Of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
fn getpeername4(context: SockAddrContext) -> i32 {
    restore::<V4>(&Maps, &context)
}

/// Of an IPv6 socket, also when its peer is an IPv4 address.
#[cgroup_sock_addr(getpeername6)]
fn getpeername6(context: SockAddrContext) -> i32 {
    restore::<V6>(&Maps, &context)
}

/// Of a TCP socket.
#[sock_ops]
fn tcp_state(context: SockOpsContext) -> u32 {
    change_state(&Maps, &context)
}

/// Of any socket.
#[cgroup_sock(sock_release)]
fn release(context: SockContext) -> i32 {
    close(&Maps, &context)
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
