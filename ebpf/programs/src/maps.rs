//! The kernel's tables. Names, kinds and capacities are those of `ebpf_abi`.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_boot_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{HashMap, LpmTrie, LruHashMap, LruPerCpuHashMap};
use ebpf_abi::{
    Affinity, AffinityKey, Backend, BackendId, Flow, FlowKey, MaglevTable, MemberKey, NO_BACKEND, Origin,
    OriginKey, Service, ServiceId, ServiceKey, SlotKey, SourceRange, Tallied, Tally, Turn,
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
static MEMBERS: HashMap<MemberKey, BackendId> =
    HashMap::with_max_entries(ebpf_abi::MEMBERS.capacity, BPF_F_NO_PREALLOC);
#[map]
static MAGLEV: HashMap<ServiceId, MaglevTable> =
    HashMap::with_max_entries(ebpf_abi::MAGLEV.capacity, BPF_F_NO_PREALLOC);
#[map]
static SOURCE_RANGES: LpmTrie<SourceRange, u32> =
    LpmTrie::with_max_entries(ebpf_abi::SOURCE_RANGES.capacity, BPF_F_NO_PREALLOC);
#[map]
static TURNS: HashMap<ServiceId, Turn> =
    HashMap::with_max_entries(ebpf_abi::TURNS.capacity, BPF_F_NO_PREALLOC);
#[map]
static TALLIES: LruPerCpuHashMap<ServiceId, Tally> =
    LruPerCpuHashMap::with_max_entries(ebpf_abi::TALLIES.capacity, 0);
#[map]
static AFFINITY: LruHashMap<AffinityKey, Affinity> =
    LruHashMap::with_max_entries(ebpf_abi::AFFINITY.capacity, 0);
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
        let same = |first: &Service, second: &Service| first.id == second.id && first.rules == second.rules;
        agreed(|| SERVICES.get_ptr(key), whole, same)
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
    fn member(&self, key: &MemberKey) -> Option<BackendId> {
        // Checked against the backend's own service and address.
        MEMBERS.get_ptr(key).map(copy)
    }

    #[inline(always)]
    fn maglev(&self, service: ServiceId, hash: u32) -> Option<BackendId> {
        MAGLEV.get_ptr(service).map(|table| entry(table, MaglevTable::position(hash)))
    }

    #[inline(always)]
    fn take_turn(&self, service: ServiceId) -> Option<u64> {
        TURNS.get_ptr_mut(service).map(|turn| increment(turn.cast()))
    }

    #[inline(always)]
    fn tally(&self, service: ServiceId, what: Tallied) {
        let tally = tally_of(service);
        if !tally.is_null() {
            // A process may be preempted by another that connects.
            increment(number(tally, what));
        }
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        // Whatever it is, it is used only if it is a backend of the service.
        AFFINITY.get_ptr(key).map(copy)
    }

    #[inline(always)]
    fn remember_affinity(&self, key: &AffinityKey, affinity: Affinity) {
        remembered(AFFINITY.insert(key, affinity, 0));
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

    #[inline(always)]
    #[expect(unsafe_code, reason = "helpers are calls into the kernel")]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing and cannot fail.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "helpers are calls into the kernel")]
    fn now(&self) -> u64 {
        // SAFETY: the helper takes nothing and cannot fail.
        unsafe { bpf_ktime_get_boot_ns() }
    }
}

impl Maps {
    /// Whether a service with [`ebpf_abi::Rules::SOURCE_RANGES`] may be used by a client.
    #[inline(always)]
    pub fn admits(&self, source: SourceRange) -> bool {
        SOURCE_RANGES.get(Key::new(SourceRange::BITS, source)).is_some()
    }

    /// Counts the bytes of a packet.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the kernel hands out values of maps as pointers")]
    pub fn tally_bytes(&self, service: ServiceId, bytes: u64) {
        let tally = tally_of(service);
        if !tally.is_null() {
            let count = number(tally, Tallied::Bytes);
            // SAFETY: as in `copy`; it is this processor's own, and no program of packets interrupts another.
            unsafe { count.write_volatile(count.read_volatile().wrapping_add(bytes)) };
        }
    }
}

/// A value that two look-ups agree on: both are `same`.
///
/// The kernel gives the memory of an entry that was removed or replaced to another entry at once, even while a program
/// that was preempted here is about to read it. Identifiers are never given out twice, so what two look-ups agree on is
/// the key's. When they differ a third decides: to be wrong, it would have to be overtaken in the same way.
#[inline(always)]
pub(crate) fn agreed<V>(
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
pub(crate) fn copy<V: Copy>(value: *const V) -> V {
    // SAFETY: the pointer is of a look-up that found something; the kernel keeps that memory mapped and aligned until
    // the program ends. Its content may change meanwhile, hence volatile; `V` is plain data, valid in every state.
    unsafe { core::ptr::read_volatile(value) }
}

/// Reads a service's identifier and its number of slots in one access, so that they are of the same entry.
#[inline(always)]
#[expect(unsafe_code, reason = "the kernel hands out values of maps as pointers")]
fn whole(service: *const Service) -> Service {
    let words = service.cast::<u64>();
    // SAFETY: as in `copy`; the kernel aligns values of maps to 8 bytes, and a `Service` is six words without padding,
    // the first two of which are the identifier and the number of slots.
    unsafe {
        let words = [words.read_volatile(), words.add(1).read_volatile(), words.add(2).read_volatile()];
        core::mem::transmute::<[u64; 3], Service>(words)
    }
}

/// Reads one entry of a table.
#[inline(always)]
#[expect(unsafe_code, reason = "the kernel hands out values of maps as pointers")]
fn entry(table: *const MaglevTable, position: u32) -> BackendId {
    // Of what the compiler makes of a product, a shift and a scale the verifier loses track.
    let position = core::hint::black_box(position) as usize;
    if position >= MaglevTable::LENGTH {
        return NO_BACKEND;
    }
    // SAFETY: as in `copy`; the position is less than the table's length.
    unsafe { table.cast::<BackendId>().add(position).read_volatile() }
}

/// What this processor has counted of a service; null where there is no room.
#[inline(never)]
fn tally_of(service: ServiceId) -> *mut Tally {
    if let Some(tally) = TALLIES.get_ptr_mut(service) {
        return tally;
    }
    remembered(TALLIES.insert(service, Tally::default(), u64::from(BPF_NOEXIST)));
    TALLIES.get_ptr_mut(service).unwrap_or(core::ptr::null_mut())
}

#[inline(always)]
const fn number(tally: *mut Tally, what: Tallied) -> *mut u64 {
    tally.cast::<u64>().wrapping_add(what as usize)
}

/// Counts one and returns the count before, as one step for all processors.
#[cfg(target_arch = "bpf")]
#[inline(always)]
#[expect(unsafe_code, reason = "Rust's atomics for this target lack the kernel's fetch-and-add")]
fn increment(number: *mut u64) -> u64 {
    let mut count = 1_u64;
    // SAFETY: as in `copy`; map values are aligned to 8 bytes, and so are the numbers in them, which are 8 bytes wide.
    unsafe {
        core::arch::asm!(
            "{count} = atomic_fetch_add((u64 *)({number} + 0), {count})",
            count = inout(reg) count,
            number = in(reg) number,
        );
    }
    count
}

/// There are no maps on the host.
#[cfg(not(target_arch = "bpf"))]
const fn increment(_: *mut u64) -> u64 {
    0
}

/// A program has nobody to tell that the kernel is short of memory, and must not keep its socket from forwarding for
/// that; what is then lost is documented with [`Tables`].
#[inline(always)]
pub(crate) fn remembered(_: Result<(), i32>) {}
