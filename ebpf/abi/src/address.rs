//! What is written in network order, by type and not by comment.

use bytemuck::{AnyBitPattern, NoUninit};

/// An IPv6 address, or an IPv4 address in its mapped form `::ffff:a.b.c.d`, as four words that each hold their bytes in
/// network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(C)]
pub struct Address {
    words: [u32; 4],
}

impl Address {
    /// From the 16 bytes on the wire.
    pub fn from_octets(octets: [u8; 16]) -> Self {
        Self { words: bytemuck::cast(octets) }
    }

    /// The 16 bytes on the wire.
    pub fn octets(self) -> [u8; 16] {
        bytemuck::cast(self.words)
    }

    /// From an IPv4 address as the kernel keeps it (`user_ip4`).
    #[inline]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, 0, 0x0000_ffff_u32.to_be(), word] }
    }

    /// From an IPv6 address as the kernel keeps it (`user_ip6`).
    #[inline]
    pub const fn from_v6_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The IPv4 address as the kernel keeps it. Meaningful only where [`Address::is_v4`].
    #[inline]
    pub const fn v4_word(self) -> u32 {
        self.words[3]
    }

    /// The IPv6 address as the kernel keeps it.
    #[inline]
    pub const fn v6_words(self) -> [u32; 4] {
        self.words
    }

    /// Whether this is an IPv4 address in its mapped form.
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == 0x0000_ffff_u32.to_be()
    }
}

/// A transport port in network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, NoUninit, AnyBitPattern)]
#[repr(transparent)]
pub struct Port(u16);

impl Port {
    /// From a number in host order.
    pub const fn from_number(number: u16) -> Self {
        Self(number.to_be())
    }

    /// The number in host order.
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }

    /// From the low half of the kernel's `user_port`, which is in network order.
    #[inline]
    pub const fn from_wire(wire: u16) -> Self {
        Self(wire)
    }

    /// As the kernel's `user_port` wants it.
    #[inline]
    pub const fn wire(self) -> u16 {
        self.0
    }
}

const _: () = assert!(size_of::<Address>() == 16);
const _: () = assert!(size_of::<Port>() == 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_the_same_from_either_socket_family() {
        let word = u32::from_ne_bytes([10, 254, 0, 1]);
        let mapped = Address::from_octets([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 254, 0, 1]);
        assert_eq!(Address::from_v4_word(word), mapped);
        assert!(mapped.is_v4());
        assert_eq!(mapped.v4_word(), word);
        assert_eq!(mapped.octets()[12..], [10, 254, 0, 1]);
        assert!(!Address::from_octets([0xfd; 16]).is_v4());
    }

    #[test]
    fn a_port_is_kept_as_on_the_wire() {
        assert_eq!(Port::from_number(443).wire().to_ne_bytes(), [0x01, 0xbb]);
        assert_eq!(Port::from_wire(u16::from_ne_bytes([0x01, 0xbb])).number(), 443);
    }
}
