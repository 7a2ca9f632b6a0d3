//! The address that a socket call is about, as the kernel shows it to a program.

use core::mem::offset_of;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, bpf_sock_addr};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::{SockAddrContext, SockContext, SockOpsContext};
use ebpf_abi::{Address, Audience, Backend, Client, Cookie, Origin, OriginKey, Port, ServiceKey};

use crate::Tables;
use crate::forwarding::{self, Asker, Socket, TCP, Verdict};
use crate::options::has_set_retval;

/// The kernel carries on with the call.
const PROCEED: i32 = 1;
/// The call fails with what `bpf_set_retval` said, and with EPERM where there is no such helper.
const FAIL: i32 = 0;
/// What an application is told where nobody listens.
const ECONNREFUSED: i32 = 111;
/// What it is told in the end where nobody answers; here it is told at once, and spared the wait.
const ETIMEDOUT: i32 = 110;

/// Which of its two address fields a hook has. An IPv6 socket that talks IPv4 shows IPv4-mapped addresses, so both are
/// one [`Address`] to us.
pub trait Family {
    /// Reads the address.
    fn address(context: &SockAddrContext) -> Address;
    /// Writes the address; false where the field cannot hold it.
    fn set_address(context: &SockAddrContext, address: Address) -> bool;
}

/// The hooks of IPv4 addresses.
#[derive(Clone, Copy, Debug)]
pub enum V4 {}

/// The hooks of IPv6 addresses.
#[derive(Clone, Copy, Debug)]
pub enum V6 {}

/// `connect`: the destination becomes the next backend.
#[inline(always)]
pub fn connect<F: Family>(tables: &impl Tables, context: &SockAddrContext) -> i32 {
    let verdict = forwarding::connect(tables, &Calling(context), &destination::<F>(context));
    carry_out::<F>(context, verdict)
}

/// `sendmsg` and `sendto` with an address: the destination becomes the exchange's backend.
#[inline(always)]
pub fn send<F: Family>(tables: &impl Tables, context: &SockAddrContext) -> i32 {
    let verdict = forwarding::send(tables, &Calling(context), &destination::<F>(context));
    carry_out::<F>(context, verdict)
}

/// `recvmsg`, `recvfrom` and `getpeername`: the application sees what it named.
#[inline(always)]
pub fn restore<F: Family>(tables: &impl Tables, context: &SockAddrContext) -> i32 {
    let (address, port) = (F::address(context), port(context));
    let peer = OriginKey { cookie: cookie(context), address, port, reserved: [0; 3] };
    if let Some(Origin { address, port, .. }) = forwarding::origin(tables, &peer)
        && F::set_address(context, address)
    {
        set_port(context, port);
    }
    // These hooks may do nothing else.
    PROCEED
}

/// A TCP socket comes to another state: where its handshake is done, it is known how long that took.
#[inline(always)]
pub fn change_state(tables: &impl Tables, context: &SockOpsContext) -> u32 {
    if context.op() == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        forwarding::established(tables, Cookie(cookie(context)));
    }
    // What the kernel asks beside it, it decides itself.
    1
}

/// A socket is closed.
#[inline(always)]
pub fn close(tables: &impl Tables, context: &SockContext) -> i32 {
    forwarding::closed(tables, Cookie(cookie(context)));
    PROCEED
}

#[inline(always)]
fn carry_out<F: Family>(context: &SockAddrContext, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => PROCEED,
        Verdict::Forward(Backend { address, port, .. }) => {
            if F::set_address(context, address) {
                set_port(context, port);
                PROCEED
            } else {
                refuse::<F>(context)
            }
        }
        Verdict::Refuse => refuse::<F>(context),
        Verdict::Drop => fail(ETIMEDOUT),
    }
}

#[inline(always)]
fn destination<F: Family>(context: &SockAddrContext) -> ServiceKey {
    ServiceKey {
        address: F::address(context),
        port: port(context),
        protocol: protocol(context),
        audience: Audience::EVERYONE,
    }
}

/// The socket that makes the call.
struct Calling<'context>(&'context SockAddrContext);

impl Asker for Calling<'_> {
    #[inline(always)]
    #[expect(unsafe_code, reason = "helpers are calls into the kernel")]
    fn client(&self) -> Client {
        // SAFETY: the helper takes the context the kernel passed.
        Client::from_namespace(unsafe { bpf_get_netns_cookie(self.0.as_ptr()) })
    }

    #[inline(always)]
    fn flow_hash(&self) -> Option<u32> {
        None
    }
}

impl Socket for Calling<'_> {
    #[inline(always)]
    fn cookie(&self) -> u64 {
        cookie(self.0)
    }
}

impl Family for V4 {
    #[inline(always)]
    fn address(context: &SockAddrContext) -> Address {
        Address::from_v4_word(word(context, offset_of!(bpf_sock_addr, user_ip4)))
    }

    #[inline(always)]
    fn set_address(context: &SockAddrContext, address: Address) -> bool {
        if address.is_v4() {
            set_word(context, offset_of!(bpf_sock_addr, user_ip4), address.v4_word());
        }
        address.is_v4()
    }
}

impl Family for V6 {
    #[inline(always)]
    fn address(context: &SockAddrContext) -> Address {
        Address::from_v6_words([
            word(context, USER_IP6),
            word(context, USER_IP6 + 4),
            word(context, USER_IP6 + 8),
            word(context, USER_IP6 + 12),
        ])
    }

    #[inline(always)]
    fn set_address(context: &SockAddrContext, address: Address) -> bool {
        let [first, second, third, fourth] = address.v6_words();
        set_word(context, USER_IP6, first);
        set_word(context, USER_IP6 + 4, second);
        set_word(context, USER_IP6 + 8, third);
        set_word(context, USER_IP6 + 12, fourth);
        true
    }
}

const USER_IP6: usize = offset_of!(bpf_sock_addr, user_ip6);

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a port has 16 bits; the kernel shows it in a word")]
fn port(context: &SockAddrContext) -> Port {
    Port::from_wire(word(context, offset_of!(bpf_sock_addr, user_port)) as u16)
}

#[inline(always)]
fn set_port(context: &SockAddrContext, port: Port) {
    set_word(context, offset_of!(bpf_sock_addr, user_port), u32::from(port.wire()));
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the one longer number, 262 for Multipath TCP, has TCP's low half: it reaches TCP services"
)]
fn protocol(context: &SockAddrContext) -> u8 {
    word(context, offset_of!(bpf_sock_addr, protocol)) as u8
}

/// Reads a word of the context.
#[inline(always)]
#[expect(unsafe_code, reason = "the kernel hands its context to a program as a pointer")]
fn word(context: &SockAddrContext, offset: usize) -> u32 {
    // SAFETY: the kernel passes a `bpf_sock_addr`, and every `offset` is that of one of its words. Volatile, so that
    // the compiler keeps the access as the verifier wants it: one aligned word.
    unsafe { context.sock_addr.byte_add(offset).cast::<u32>().read_volatile() }
}

/// Writes a word of the context.
#[inline(always)]
#[expect(unsafe_code, reason = "the kernel hands its context to a program as a pointer")]
fn set_word(context: &SockAddrContext, offset: usize, value: u32) {
    // SAFETY: as in `word`; the context belongs to this run of the program alone.
    unsafe { context.sock_addr.byte_add(offset).cast::<u32>().write_volatile(value) }
}

/// The number that names the socket as long as the kernel runs.
#[inline(always)]
#[expect(unsafe_code, reason = "helpers are calls into the kernel")]
fn cookie(context: &impl EbpfContext) -> u64 {
    // SAFETY: the helper takes the context the kernel passed.
    unsafe { bpf_get_socket_cookie(context.as_ptr()) }
}

/// The application is told that nobody listens.
#[inline(always)]
fn refuse<F: Family>(context: &SockAddrContext) -> i32 {
    if !has_set_retval() && protocol(context) == TCP && !is_bound_to_device(context) {
        // At port 0 of its own host nobody can listen: the kernel answers at once, and the call fails as it should.
        let nobody = if F::address(context).is_v4() { LOOPBACK_V4 } else { LOOPBACK_V6 };
        F::set_address(context, nobody);
        set_port(context, Port::from_wire(0));
        return PROCEED;
    }
    fail(ECONNREFUSED)
}

const LOOPBACK_V4: Address = Address::from_v4_word(0x7f00_0001_u32.to_be());
const LOOPBACK_V6: Address = Address::from_v6_words([0, 0, 0, 1_u32.to_be()]);

/// Whether the socket talks by one device only, and so not to its own host.
#[inline(always)]
#[expect(unsafe_code, reason = "the kernel hands its context to a program as a pointer")]
fn is_bound_to_device(context: &SockAddrContext) -> bool {
    // SAFETY: the kernel passes a `bpf_sock_addr`, whose socket is there while the program runs. Volatile, so that the
    // compiler keeps the accesses as the verifier wants them: a pointer and a word.
    unsafe {
        let socket = (&raw const (*context.sock_addr).__bindgen_anon_1.sk).read_volatile();
        (&raw const (*socket).bound_dev_if).read_volatile() != 0
    }
}

/// Makes the call fail at once with this error instead of the hook's own EPERM, where the kernel lets it.
#[inline(always)]
#[expect(unsafe_code, reason = "helpers are calls into the kernel")]
fn fail(error: i32) -> i32 {
    if has_set_retval() {
        // SAFETY: the helper takes a negative error number. It fails for numbers that are none only.
        unsafe { bpf_set_retval(-error) };
    }
    FAIL
}
