//! The configuration file.

pub mod dns;

pub use dns::DnsSettings;
