//! The kernel's tables of conversations. Names, kinds and capacities are those of `ebpf_abi`.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use ebpf_abi::{Address, Connection, Counter, FragmentKey, Interface, Node, Path, Ports, SourceRange, Tuple};

use super::Skb;
use super::parse::Packet;
use super::translate::{Conversations, Route, Work};
use crate::Tables;
use crate::maps::{Maps, agreed, copy, remembered};

#[map]
static CONNECTIONS: LruHashMap<Tuple, Connection> =
    LruHashMap::with_max_entries(ebpf_abi::CONNECTIONS.capacity, 0);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, Ports> =
    LruHashMap::with_max_entries(ebpf_abi::FRAGMENTS.capacity, 0);
#[map]
static INTERFACES: HashMap<u32, Interface> =
    HashMap::with_max_entries(ebpf_abi::INTERFACES.capacity, BPF_F_NO_PREALLOC);
#[map]
static PODS: LpmTrie<Address, u32> = LpmTrie::with_max_entries(ebpf_abi::PODS.capacity, BPF_F_NO_PREALLOC);
#[map]
static NODE: Array<Node> = Array::with_max_entries(ebpf_abi::NODE.capacity, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(ebpf_abi::COUNTERS.capacity, 0);
/// More than a program's stack has room for. A program is done with it before another runs on its processor.
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// The maps and routes of the running kernel, for one packet.
#[derive(Clone, Copy)]
pub(super) struct Kernel<'context> {
    pub(super) skb: Skb<'context>,
}

/// This processor's place for a packet.
#[inline(always)]
#[expect(unsafe_code, reason = "the kernel hands out values of maps as pointers")]
pub(super) fn work() -> Option<&'static mut Work> {
    // SAFETY: nobody else has this processor's entry while the program runs, and it asks once. It began as zeros, which
    // are a `Work`, and only `Work`s were written since.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// Reads a value of a map word by word.
#[inline(always)]
#[expect(unsafe_code, reason = "the kernel hands out values of maps as pointers")]
fn words<const N: usize>(value: *const u64) -> [u64; N] {
    let mut words = [0; N];
    let mut position = 0;
    while position < N {
        // SAFETY: as in `copy`; the value has so many words, and the kernel aligns it to them.
        words[position] = unsafe { value.add(position).read_volatile() };
        position += 1;
    }
    words
}

/// An entry of the table.
#[derive(Clone, Copy)]
pub(super) struct Entry(*mut Connection);

/// It was there when it was looked up, and the kernel keeps its memory mapped and aligned until the program ends. It may be given
/// to another conversation meanwhile, whose age and bytes are then those of this one, and whose path is not believed, for
/// its seal is broken.
#[expect(unsafe_code, reason = "the kernel hands out values of maps as pointers")]
impl Entry {
    /// The one under a tuple.
    #[inline(always)]
    pub(super) fn of(key: &Tuple) -> Option<Self> {
        CONNECTIONS.get_ptr_mut(key).map(Self)
    }

    /// What it holds, read once: with luck it is of one piece. See [`Connection::seal`].
    #[inline(always)]
    pub(super) fn glimpse(self) -> Connection {
        const WORDS: usize = size_of::<Connection>() / size_of::<u64>();
        bytemuck::cast(words::<WORDS>(self.0.cast()))
    }

    /// Counts the bytes of a packet.
    #[inline(always)]
    pub(super) fn note_bytes(self, bytes: u64) {
        // SAFETY: see above. Of two processors at once one counts.
        unsafe {
            let untold = &raw mut (*self.0).untold;
            untold.write_volatile(untold.read_volatile().wrapping_add(bytes));
        }
    }

    #[inline(always)]
    fn tell(self) {
        // SAFETY: see above.
        unsafe { (&raw mut (*self.0).untold).write_volatile(0) };
    }

    #[inline(always)]
    fn touch(self, seen: u64, flags: u32) {
        // SAFETY: see above.
        unsafe {
            (&raw mut (*self.0).seen).write_volatile(seen);
            (&raw mut (*self.0).flags).write_volatile(flags);
        }
    }

    #[inline(always)]
    fn lead(self, path: &Path) {
        // SAFETY: see above.
        unsafe { (&raw mut (*self.0).path).write_volatile(*path) };
    }
}

impl Conversations for Kernel<'_> {
    #[inline(always)]
    fn services(&self) -> &impl Tables {
        &Maps
    }

    #[inline(always)]
    fn connection(&self, key: &Tuple) -> Option<Connection> {
        agreed(|| CONNECTIONS.get_ptr(key), copy, |first, second| first.becomes == second.becomes)
    }

    #[inline(always)]
    fn knows(&self, key: &Tuple) -> bool {
        CONNECTIONS.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn reserve(&self, key: &Tuple, connection: &Connection) -> bool {
        CONNECTIONS.insert(key, connection, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn remember(&self, key: &Tuple, connection: &Connection) {
        remembered(CONNECTIONS.insert(key, connection, u64::from(BPF_ANY)));
    }

    #[inline(always)]
    fn touch(&self, key: &Tuple, seen: u64, flags: u32) -> bool {
        Entry::of(key).map(|entry| entry.touch(seen, flags)).is_some()
    }

    #[inline(always)]
    fn settle(&self, key: &Tuple, seen: u64, flags: u32) -> bool {
        let Some(entry) = Entry::of(key) else { return false };
        entry.touch(seen, flags);
        entry.tell();
        true
    }

    #[inline(always)]
    fn lead(&self, key: &Tuple, path: &Path) {
        if let Some(entry) = Entry::of(key) {
            entry.lead(path);
            entry.tell();
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<Ports> {
        FRAGMENTS.get_ptr(key).map(copy)
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey, ports: Ports) {
        remembered(FRAGMENTS.insert(key, ports, u64::from(BPF_ANY)));
    }

    #[inline(always)]
    fn route(&self, tuple: &Tuple, packet: &Packet) -> Route {
        self.skb.route(tuple, packet)
    }

    #[inline(always)]
    fn interface(&self, index: u32) -> Option<Interface> {
        INTERFACES.get_ptr(index).map(copy)
    }

    #[inline(always)]
    fn node(&self) -> Option<Node> {
        NODE.get_ptr(0).map(copy)
    }

    #[inline(always)]
    fn is_pod(&self, address: Address) -> bool {
        PODS.get(Key::new(128, address)).is_some()
    }

    #[inline(always)]
    fn admits(&self, source: SourceRange) -> bool {
        Maps.admits(source)
    }

    #[inline(always)]
    fn by_stack(&self) -> bool {
        crate::options::by_stack()
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "the kernel hands out values of maps as pointers")]
    fn count(&self, counter: Counter, by: u64) {
        if let Some(count) = COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: it is this processor's own, and aligned.
            unsafe { count.write_volatile(count.read_volatile().wrapping_add(by)) };
        }
    }
}
