//! The one promise aya wants about the types of the maps.

use bytemuck::{AnyBitPattern, NoUninit};

/// A key or value of a map, as aya takes it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

#[expect(
    unsafe_code,
    reason = "aya::Pod is an unsafe trait of another crate, and so are the types it is needed for"
)]
// SAFETY: `Pod` wants plain data that is sound to read as bytes and to make of any bytes, which is what these two
// bounds mean; their derives prove it for every type of `ebpf_abi`. `Plain` is transparent.
unsafe impl<T: NoUninit + AnyBitPattern> aya::Pod for Plain<T> {}
