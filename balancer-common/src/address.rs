//! IP addresses as the kernel programs hold them: four network-order words, IPv4 mapped into IPv6.

use bytemuck::{Pod, Zeroable};

/// Address family of IPv4 as written into shared types. The values equal Linux' `AF_INET` and
/// `AF_INET6`, which are part of its stable ABI.
pub const FAMILY_V4: u16 = 2;
/// Address family of IPv6.
pub const FAMILY_V6: u16 = 10;

/// `::ffff:0:0/96` (RFC 4291, section 2.5.5.2), its third word in network byte order.
pub const MAPPED_PREFIX_BE: u32 = 0xffff_u32.to_be();

/// An IPv4 or IPv6 address in network byte order; IPv4 is held IPv4-mapped.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// The IPv4-mapped form of `address_be` (network byte order).
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs must not call out for a copy")]
    pub const fn from_v4(address_be: u32) -> Self {
        Self([0, 0, MAPPED_PREFIX_BE, address_be])
    }

    /// The IPv4 address in network byte order, if this is an IPv4-mapped address.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "kernel programs must not call out for a compare")]
    pub const fn to_v4(self) -> Option<u32> {
        let [a, b, c, d] = self.0;
        if a | b == 0 && c == MAPPED_PREFIX_BE { Some(d) } else { None }
    }

    /// [`FAMILY_V4`] for an IPv4-mapped address, else [`FAMILY_V6`].
    pub const fn family(self) -> u16 {
        if self.to_v4().is_some() { FAMILY_V4 } else { FAMILY_V6 }
    }
}

#[cfg(any(test, feature = "std"))]
impl From<std::net::IpAddr> for Address {
    fn from(ip: std::net::IpAddr) -> Self {
        let octets = match ip {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(v6) => v6.octets(),
        };
        Self(bytemuck::cast(octets))
    }
}

#[cfg(any(test, feature = "std"))]
impl From<Address> for std::net::IpAddr {
    /// IPv4-mapped addresses become IPv4 addresses.
    fn from(address: Address) -> Self {
        let octets: [u8; 16] = bytemuck::cast(address.0);
        std::net::Ipv6Addr::from(octets).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    proptest! {
        #[test]
        fn addresses_survive_the_round_trip(ip: IpAddr) {
            prop_assert_eq!(IpAddr::from(Address::from(ip)), ip.to_canonical());
        }

        #[test]
        fn only_mapped_addresses_are_v4(octets: [u8; 4]) {
            let v4 = Address::from(IpAddr::from(octets));
            prop_assert_eq!(v4.to_v4(), Some(u32::from_ne_bytes(octets)));
            prop_assert_eq!(v4.family(), FAMILY_V4);
            prop_assert_eq!(v4, Address::from_v4(u32::from_ne_bytes(octets)));
        }
    }
}
