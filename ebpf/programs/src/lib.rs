//! What the kernel runs for fairway-proxy, as far as it can be told without a kernel.
//!
//! [`forwarding`] decides: given the maps ([`Tables`]), where does this socket's connection or datagram go, and what
//! does its application believe to talk to? It is compiled into the programs of `src/bin` and, with tables that are
//! plain values, into tests on the host. So are [`packet::parse`] and [`packet::translate`], which decide about packets.
//! `maps` (the kernel's tables), `socket` (its socket address), `packet` (its packet) and `options` (what who loads the
//! programs says) hold all the unsafe code there is.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
// The kernel's verifier follows every path: what is inlined is proven where it is used, with what is known there.
#![expect(
    clippy::inline_always,
    reason = "a program is one function; calls between eBPF functions cost checks and registers"
)]

pub mod forwarding;
pub mod maps;
mod options;
pub mod packet;
pub mod socket;

pub use forwarding::Tables;
