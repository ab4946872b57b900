//! Carries the core's writes into the maps, one map write each.

use super::{maps::Maps, raw::Raw};
use crate::core::write::Write;
use aya::maps::MapError;
use balancer_common::{
    address::Address,
    backend::BackendStats,
    frontend::{Frontend, FrontendKeyV4, FrontendKeyV6},
    service::{ServiceName, ServiceStats},
};
use std::net::{IpAddr, SocketAddr};

/// A map write that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("write {subject} to the kernel's maps: {cause}")]
pub struct WriteError {
    subject: String,
    cause: MapError,
}

/// A frontend as the key of its family's map.
pub(super) enum FrontendKey {
    V4(FrontendKeyV4),
    V6(FrontendKeyV6),
}

impl From<SocketAddr> for FrontendKey {
    fn from(address: SocketAddr) -> Self {
        let port_be = address.port().to_be();
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => Self::V4(FrontendKeyV4 {
                address_be: u32::from_ne_bytes(ip.octets()),
                port_be,
                reserved: 0,
            }),
            ip @ IpAddr::V6(_) => {
                Self::V6(FrontendKeyV6 { address: Address::from(ip), port_be, reserved: 0 })
            }
        }
    }
}

impl Maps {
    /// Applies one write.
    ///
    /// # Errors
    /// [`WriteError`] names what was written, and what the kernel said (a full map, for example).
    pub fn write(&mut self, write: &Write) -> Result<(), WriteError> {
        self.try_write(write).map_err(|cause| WriteError { subject: subject(write), cause })
    }

    fn try_write(&mut self, write: &Write) -> Result<(), MapError> {
        match write {
            Write::Backend { id, record } => self.backends.set(*id, Raw(*record), 0),
            Write::BackendStatsReset { id } => {
                self.backend_stats.set(*id, Raw(BackendStats::default()), 0)
            }
            Write::ServiceStatsReset { id } => {
                self.service_stats.set(*id, Raw(ServiceStats::default()), 0)
            }
            Write::Slots { chunk, slots } => self.slots.set(*chunk, Raw(*slots), 0),
            Write::Cursor { service, cursor } => self.cursors.set(*service, Raw(*cursor), 0),
            Write::Name { service, name } => {
                // Names are bounded where they are made; a longer one is cut, not lost.
                let end = name.floor_char_boundary(balancer_common::service::SERVICE_NAME_BYTES);
                match ServiceName::new(&name[..end]) {
                    Some(name) => self.service_names.insert(Raw(*service), Raw(name), 0),
                    None => Ok(()),
                }
            }
            Write::NameRemoved { service } => {
                absent_is_fine(self.service_names.remove(&Raw(*service)))
            }
            Write::Service { id, record } => self.services.set(*id, Raw(*record), 0),
            Write::Frontend { address, service } => {
                let frontend = Raw(Frontend { service: *service, reserved: 0 });
                match FrontendKey::from(*address) {
                    FrontendKey::V4(key) => self.frontends_v4.insert(Raw(key), frontend, 0),
                    FrontendKey::V6(key) => self.frontends_v6.insert(Raw(key), frontend, 0),
                }
            }
            Write::FrontendRemoved { address } => {
                absent_is_fine(match FrontendKey::from(*address) {
                    FrontendKey::V4(key) => self.frontends_v4.remove(&Raw(key)),
                    FrontendKey::V6(key) => self.frontends_v6.remove(&Raw(key)),
                })
            }
        }
    }
}

/// Removing what is not there reaches the wanted state, too.
pub(super) fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        other => other,
    }
}

fn subject(write: &Write) -> String {
    match write {
        Write::Backend { id, .. } => format!("backend {id}"),
        Write::BackendStatsReset { id } => format!("the counters of backend {id}"),
        Write::ServiceStatsReset { id } => format!("the counters of service {id}"),
        Write::Slots { chunk, .. } => format!("slots {chunk}"),
        Write::Cursor { service, .. } => format!("the cursor of service {service}"),
        Write::Name { service, name } => format!("the name `{name}` of service {service}"),
        Write::NameRemoved { service } => format!("the name of service {service}"),
        Write::Service { id, .. } => format!("service {id}"),
        Write::Frontend { address, service } => format!("frontend {address} of service {service}"),
        Write::FrontendRemoved { address } => format!("the removal of frontend {address}"),
    }
}
