//! The kernel's tables. Names, kinds and capacities are those of `ebpf_abi`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap};
use ebpf_abi::{
    Backend, BackendId, Flow, FlowKey, Origin, OriginKey, Service, ServiceId, ServiceKey, SlotKey, Turn,
};

use crate::Tables;

// Memory is taken by what is there and not by what could be.
#[map]
static SERVICES: HashMap<ServiceKey, Service> =
    HashMap::with_max_entries(ebpf_abi::SERVICES.capacity, BPF_F_NO_PREALLOC);
#[map]
static SLOTS: HashMap<SlotKey, BackendId> =
    HashMap::with_max_entries(ebpf_abi::SLOTS.capacity, BPF_F_NO_PREALLOC);
#[map]
static BACKENDS: HashMap<BackendId, Backend> =
    HashMap::with_max_entries(ebpf_abi::BACKENDS.capacity, BPF_F_NO_PREALLOC);
#[map]
static TURNS: HashMap<ServiceId, Turn> =
    HashMap::with_max_entries(ebpf_abi::TURNS.capacity, BPF_F_NO_PREALLOC);
#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(ebpf_abi::FLOWS.capacity, 0);
#[map]
static ORIGINS: LruHashMap<OriginKey, Origin> = LruHashMap::with_max_entries(ebpf_abi::ORIGINS.capacity, 0);

/// The maps of the running kernel.
#[derive(Clone, Copy, Debug)]
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        // A service that grows or shrinks meanwhile is still the same.
        agreed(|| SERVICES.get_ptr(key), whole, |first, second| first.id == second.id)
    }

    #[inline(always)]
    fn slot(&self, key: &SlotKey) -> Option<BackendId> {
        // One look-up will do: what it yields is checked against the backend's own service.
        SLOTS.get_ptr(key).map(copy)
    }

    #[inline(always)]
    fn backend(&self, id: BackendId) -> Option<Backend> {
        agreed(|| BACKENDS.get_ptr(id), copy, PartialEq::eq)
    }

    #[inline(always)]
    fn take_turn(&self, service: ServiceId) -> Option<u64> {
        TURNS.get_ptr_mut(service).map(increment)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        // One look-up will do here too: the backend is checked.
        FLOWS.get_ptr(key).map(copy)
    }

    #[inline(always)]
    fn remember_flow(&self, key: &FlowKey, flow: Flow) {
        remembered(FLOWS.insert(key, flow, 0));
    }

    #[inline(always)]
    fn origin(&self, key: &OriginKey) -> Option<Origin> {
        agreed(|| ORIGINS.get_ptr(key), copy, PartialEq::eq)
    }

    #[inline(always)]
    fn remember_origin(&self, key: &OriginKey, origin: Origin) {
        remembered(ORIGINS.insert(key, origin, 0));
    }
}

/// A value that two look-ups agree on: both are `same`.
///
/// The kernel gives the memory of an entry that was removed or replaced to another entry at once, even while a program
/// that was preempted here is about to read it. Identifiers are never given out twice, so what two look-ups agree on is
/// the key's. When they differ a third decides: to be wrong, it would have to be overtaken in the same way.
#[inline(always)]
fn agreed<V>(
    look_up: impl Fn() -> Option<*const V>,
    read: impl Fn(*const V) -> V,
    same: impl Fn(&V, &V) -> bool,
) -> Option<V> {
    let first = read(look_up()?);
    let second = read(look_up()?);
    if same(&first, &second) { Some(second) } else { look_up().map(read) }
}

/// Reads a value of a map.
#[inline(always)]
#[expect(unsafe_code, reason = "the kernel hands out values of maps as pointers")]
fn copy<V: Copy>(value: *const V) -> V {
    // SAFETY: the pointer is of a look-up that found something; the kernel keeps that memory mapped and aligned until
    // the program ends. Its content may change meanwhile, hence volatile; `V` is plain data, valid in every state.
    unsafe { core::ptr::read_volatile(value) }
}

/// Reads a service in one access, so that its identifier and its number of slots are of the same entry.
#[inline(always)]
#[expect(unsafe_code, reason = "the kernel hands out values of maps as pointers")]
#[expect(clippy::cast_ptr_alignment, reason = "the kernel aligns values of maps to 8 bytes")]
fn whole(service: *const Service) -> Service {
    // SAFETY: as in `copy`; the kernel aligns values of maps to 8 bytes, and a `Service` is two words without padding.
    unsafe { core::mem::transmute::<u64, Service>(service.cast::<u64>().read_volatile()) }
}

/// Counts one and returns the count before, as one step for all processors.
#[cfg(target_arch = "bpf")]
#[inline(always)]
#[expect(unsafe_code, reason = "Rust's atomics for this target lack the kernel's fetch-and-add")]
fn increment(turn: *mut Turn) -> u64 {
    let mut count = 1_u64;
    // SAFETY: as in `copy`; map values are aligned to 8 bytes and a `Turn` is 8 bytes wide.
    unsafe {
        core::arch::asm!(
            "{count} = atomic_fetch_add((u64 *)({turn} + 0), {count})",
            count = inout(reg) count,
            turn = in(reg) turn,
        );
    }
    count
}

/// There are no maps on the host.
#[cfg(not(target_arch = "bpf"))]
const fn increment(_: *mut Turn) -> u64 {
    0
}

/// A program has nobody to tell that the kernel is short of memory, and must not keep its socket from forwarding for
/// that; what is then lost is documented with [`Tables`].
#[inline(always)]
fn remembered(_: Result<(), i32>) {}
