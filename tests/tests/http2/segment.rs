//! TCP segments as bytes: written with their checksums, read back with those verified.

use balancer_common::{address::Address, http2::flow::Http2Key};
use std::net::IpAddr;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

const ETHERNET_BYTES: usize = 14;

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) source: (IpAddr, u16),
    pub(crate) destination: (IpAddr, u16),
}

/// A connection: by what the programs know it, and its two directions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    pub(crate) key: Http2Key,
    /// From the server to the client.
    pub(crate) down: Ends,
    /// From the client to the server.
    pub(crate) up: Ends,
}

/// One segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// Blocks of a selective acknowledgement, as pairs of edges.
    pub(crate) blocks: Vec<(u32, u32)>,
    /// A timestamps option, as every Linux connection has one.
    pub(crate) timestamps: bool,
    pub(crate) payload: Vec<u8>,
}

impl Wire {
    /// Of a client with this port, over IPv4.
    pub(crate) fn new(netns: u64, port: u16) -> Self {
        Self::between(netns, ("10.0.0.1".parse().unwrap(), port), ("10.0.0.2".parse().unwrap(), 80))
    }

    pub(crate) fn between(netns: u64, client: (IpAddr, u16), server: (IpAddr, u16)) -> Self {
        let key = Http2Key {
            netns,
            client: Address::from(client.0),
            server: Address::from(server.0),
            client_port_be: client.1.to_be(),
            server_port_be: server.1.to_be(),
            reserved: 0,
        };
        let down = Ends { source: server, destination: client };
        Self { key, down, up: Ends { source: client, destination: server } }
    }
}

impl Segment {
    /// Its bytes on the wire, followed by `padding`.
    pub(crate) fn encode(&self, ends: Ends, padding: usize) -> Vec<u8> {
        let tcp = self.encode_tcp(ends);
        let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        match (ends.source.0, ends.destination.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet.extend([0x08, 0x00]);
                let length = u16::try_from(20 + tcp.len()).unwrap().to_be_bytes();
                let mut ip = vec![0x45, 0, length[0], length[1], 0, 7, 0x40, 0, 64, 6, 0, 0];
                ip.extend(source.octets());
                ip.extend(destination.octets());
                let sum = (!sum(&ip)).to_be_bytes();
                ip[10..12].copy_from_slice(&sum);
                packet.extend(ip);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                packet.extend(u16::try_from(tcp.len()).unwrap().to_be_bytes());
                packet.extend([6, 64]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
            }
            _ => panic!("addresses of two families"),
        }
        packet.extend(tcp);
        packet.extend(std::iter::repeat_n(0, padding));
        packet
    }

    fn encode_tcp(&self, ends: Ends) -> Vec<u8> {
        let mut options = Vec::new();
        if self.timestamps {
            options.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        }
        if !self.blocks.is_empty() {
            options.extend([1, 1, 5, u8::try_from(2 + 8 * self.blocks.len()).unwrap()]);
            for (left, right) in &self.blocks {
                options.extend(left.to_be_bytes());
                options.extend(right.to_be_bytes());
            }
        }
        let mut tcp = Vec::new();
        tcp.extend(ends.source.1.to_be_bytes());
        tcp.extend(ends.destination.1.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.push(u8::try_from((20 + options.len()) / 4).unwrap() << 4);
        tcp.push(self.flags);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0, 0, 0, 0]);
        tcp.extend(options);
        tcp.extend(&self.payload);
        let sum = (!sum(&[pseudo(ends, tcp.len()), tcp.clone()].concat())).to_be_bytes();
        tcp[16..18].copy_from_slice(&sum);
        tcp
    }

    /// What these bytes are. Lengths and checksums must be right to the last bit.
    pub(crate) fn decode(packet: &[u8], ends: Ends) -> Self {
        let ip = &packet[ETHERNET_BYTES..];
        let word = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
        let tcp = if ends.source.0.is_ipv4() {
            assert_eq!(word(2), ip.len(), "the length in the IP header");
            assert_eq!(sum(&ip[..20]), 0xffff, "the checksum of the IP header");
            &ip[20..]
        } else {
            assert_eq!(word(4) + 40, ip.len(), "the length in the IP header");
            &ip[40..]
        };
        let whole = [pseudo(ends, tcp.len()), tcp.to_vec()].concat();
        assert_eq!(sum(&whole), 0xffff, "the checksum of the TCP segment");
        let number = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        let header = usize::from(tcp[12] >> 4) * 4;
        let mut segment = Self {
            seq: number(4),
            ack: number(8),
            flags: tcp[13],
            window: u16::from_be_bytes([tcp[14], tcp[15]]),
            payload: tcp[header..].to_vec(),
            ..Self::default()
        };
        let mut at = 20;
        while at < header {
            match tcp[at] {
                1 => at += 1,
                5 => {
                    let blocks = (at + 2..at + usize::from(tcp[at + 1])).step_by(8);
                    segment.blocks = blocks.map(|at| (number(at), number(at + 4))).collect();
                    at += usize::from(tcp[at + 1]);
                }
                kind => {
                    segment.timestamps |= kind == 8;
                    at += usize::from(tcp[at + 1]);
                }
            }
        }
        segment
    }
}

/// What stands for the IP header in the checksum (RFC 9293, section 3.1; RFC 8200, section 8.1).
fn pseudo(ends: Ends, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [ends.source.0, ends.destination.0] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
    bytes.extend([0, 0, 0, 6]);
    bytes
}

/// The sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    });
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}
