//! Frontends: the addresses and ports that clients dial, and the service each one stands for.

use crate::address::Address;
use bytemuck::{Pod, Zeroable};

/// Key of an IPv4 frontend. Eight bytes, so that the lookup that every `connect()` pays is cheap.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FrontendKeyV4 {
    /// Address in network byte order.
    pub address_be: u32,
    /// Port in network byte order.
    pub port_be: u16,
    /// Kept zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<FrontendKeyV4>() == 8 && align_of::<FrontendKeyV4>() == 4);

/// Key of an IPv6 frontend. IPv4-mapped addresses are looked up as IPv4.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FrontendKeyV6 {
    /// Address in network byte order.
    pub address: Address,
    /// Port in network byte order.
    pub port_be: u16,
    /// Kept zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<FrontendKeyV6>() == 20 && align_of::<FrontendKeyV6>() == 4);

/// What a frontend leads to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Frontend {
    /// Index into the services.
    pub service: u32,
    /// Kept zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Frontend>() == 8 && align_of::<Frontend>() == 4);
