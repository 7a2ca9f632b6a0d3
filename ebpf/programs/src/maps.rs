//! The kernel's tables. Names, kinds and capacities are those of `ebpf_abi`.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_boot_ns, bpf_loop};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{HashMap, LpmTrie, LruHashMap, LruPerCpuHashMap};
use ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, BackendId, Cookie, Dial, Flow, FlowKey, Held, Latency, Load,
    MaglevTable, MemberKey, NO_BACKEND, Origin, OriginKey, Service, ServiceId, ServiceKey, SlotKey,
    SourceRange, Tallied, Tally, Turn,
};

use crate::Tables;
use crate::forwarding::Search;
use crate::options::has_loop;

// Memory is taken by what is there and not by what could be.
#[map]
static SERVICES: HashMap<ServiceKey, Service> =
    HashMap::with_max_entries(ebpf_abi::SERVICES.capacity, BPF_F_NO_PREALLOC);
#[map]
static EXCLUSIVE: HashMap<Address, u32> =
    HashMap::with_max_entries(ebpf_abi::EXCLUSIVE.capacity, BPF_F_NO_PREALLOC);
#[map]
static SERVICE_CIDRS: LpmTrie<Address, u32> =
    LpmTrie::with_max_entries(ebpf_abi::SERVICE_CIDRS.capacity, BPF_F_NO_PREALLOC);
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
static SOCKET_LOADS: HashMap<BackendId, Load> =
    HashMap::with_max_entries(ebpf_abi::SOCKET_LOADS.capacity, BPF_F_NO_PREALLOC);
#[map]
static PACKET_LOADS: HashMap<BackendId, Load> =
    HashMap::with_max_entries(ebpf_abi::PACKET_LOADS.capacity, BPF_F_NO_PREALLOC);
#[map]
static HELD: HashMap<Cookie, Held> = HashMap::with_max_entries(ebpf_abi::HELD.capacity, BPF_F_NO_PREALLOC);
#[map]
static DIALS: LruHashMap<Cookie, Dial> = LruHashMap::with_max_entries(ebpf_abi::DIALS.capacity, 0);
#[map]
static LATENCIES: LruHashMap<ServiceId, Latency> =
    LruHashMap::with_max_entries(ebpf_abi::LATENCIES.capacity, 0);
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
    fn is_exclusive(&self, address: &Address) -> bool {
        EXCLUSIVE.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn is_in_service_cidr(&self, address: &Address) -> bool {
        SERVICE_CIDRS.get(Key::new(128, *address)).is_some()
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
        TURNS.get_ptr_mut(service).map(|turn| add(turn.cast(), 1))
    }

    #[inline(always)]
    fn tally(&self, service: ServiceId, what: Tallied) {
        let tally = tally_of(service);
        if !tally.is_null() {
            // A process may be preempted by another that connects.
            add(number(tally, what), 1);
        }
    }

    #[inline(always)]
    fn load(&self, id: BackendId) -> u64 {
        let count = |load: Option<*const Load>| load.map_or(0, |load| copy(load).0);
        // What was counted anew meanwhile may have had one more taken away than there was.
        let load = count(SOCKET_LOADS.get_ptr(id)).wrapping_add(count(PACKET_LOADS.get_ptr(id)));
        if load > u64::MAX / 2 { 0 } else { load }
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "helpers are calls into the kernel")]
    fn compare(&self, search: &mut Search, count: u32) {
        let search = (&raw mut *search).cast();
        if has_loop() {
            // The verifier walks through the function once and not as often as it is called.
            // SAFETY: the kernel calls it with this pointer before it returns, and with no other.
            unsafe { bpf_loop(count, compare as *mut c_void, search, 0) };
            return;
        }
        let mut after = 0;
        while after < COMPARED_IN_PLACE && after < count {
            // SAFETY: the pointer is that of the search, which is not used meanwhile.
            unsafe { compare(after.into(), search) };
            after += 1;
        }
    }

    #[inline(always)]
    fn hold(&self, socket: Cookie, id: BackendId) {
        self.release(socket);
        if HELD.insert(socket, Held { backend: id }, u64::from(BPF_NOEXIST)).is_ok() {
            count(SOCKET_LOADS.get_ptr_mut(id), 1);
        }
    }

    #[inline(always)]
    fn release(&self, socket: Cookie) {
        if let Some(held) = HELD.get_ptr(socket).map(copy)
            && HELD.remove(socket).is_ok()
        {
            count(SOCKET_LOADS.get_ptr_mut(held.backend), LESS);
        }
    }

    #[inline(always)]
    fn conversation_began(&self, id: BackendId) {
        count(PACKET_LOADS.get_ptr_mut(id), 1);
    }

    #[inline(always)]
    fn conversation_ended(&self, id: BackendId) {
        count(PACKET_LOADS.get_ptr_mut(id), LESS);
    }

    #[inline(always)]
    fn remember_dial(&self, socket: Cookie, dial: Dial) {
        remembered(DIALS.insert(socket, dial, 0));
    }

    #[inline(always)]
    fn take_dial(&self, socket: Cookie) -> Option<Dial> {
        let dial = DIALS.get_ptr(socket).map(copy)?;
        remembered(DIALS.remove(socket));
        Some(dial)
    }

    #[inline(always)]
    fn note_latency(&self, service: ServiceId, nanoseconds: u64) {
        // Of what the compiler makes of a sum of comparisons the verifier loses track.
        let place = core::hint::black_box(Latency::place(nanoseconds)) as usize;
        let latency = latency_of(service);
        if latency.is_null() || place > Latency::LIMITS.len() {
            return;
        }
        let total = latency.cast::<u64>();
        add(total, nanoseconds);
        // The counts follow.
        add(total.wrapping_add(1 + place), 1);
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

/// So many backends are compared where the kernel has no `bpf_loop`: the verifier walks through each comparison.
const COMPARED_IN_PLACE: u32 = 4;

/// Compares one backend; 0 lets the kernel go on.
#[inline(never)]
#[expect(unsafe_code, reason = "the kernel hands the search over as a pointer")]
#[expect(clippy::cast_possible_truncation, reason = "it counts to sixteen")]
unsafe extern "C" fn compare(after: u64, search: *mut c_void) -> i64 {
    // SAFETY: see `Maps::compare`.
    let search = unsafe { &mut *search.cast::<Search>() };
    search.compare(&Maps, after as u32);
    0
}

/// How long the connections of a service took; null where there is no room.
#[inline(never)]
fn latency_of(service: ServiceId) -> *mut Latency {
    if let Some(latency) = LATENCIES.get_ptr_mut(service) {
        return latency;
    }
    remembered(LATENCIES.insert(service, Latency::default(), u64::from(BPF_NOEXIST)));
    LATENCIES.get_ptr_mut(service).unwrap_or(core::ptr::null_mut())
}

/// One less, to be added.
const LESS: u64 = u64::MAX;

/// Adds to a number of connections, of a backend that has one.
#[inline(always)]
fn count(load: Option<*mut Load>, by: u64) {
    if let Some(load) = load {
        add(load.cast(), by);
    }
}

#[inline(always)]
const fn number(tally: *mut Tally, what: Tallied) -> *mut u64 {
    tally.cast::<u64>().wrapping_add(what as usize)
}

/// Adds and returns what was there before, as one step for all processors.
#[cfg(target_arch = "bpf")]
#[inline(always)]
#[expect(unsafe_code, reason = "Rust's atomics for this target lack the kernel's fetch-and-add")]
fn add(number: *mut u64, by: u64) -> u64 {
    let mut count = by;
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
const fn add(_: *mut u64, _: u64) -> u64 {
    0
}

/// A program has nobody to tell that the kernel is short of memory, and must not keep its socket from forwarding for
/// that; what is then lost is documented with [`Tables`].
#[inline(always)]
pub(crate) fn remembered(_: Result<(), i32>) {}
