//! Answers of DNS servers, from the wire to addresses and weights.

use balancer_agent::{
    core::model::WEIGHT_MAX,
    sources::dns::records::{self, Family, Refusal},
};
use hickory_proto::op::Message;
use std::net::SocketAddr;

/// A message as it comes from a server.
pub fn answer(bytes: &[u8]) {
    let Ok(message) = Message::from_vec(bytes) else { return };
    for family in Family::ALL {
        for ip in records::addresses(&message.answers, family).ips {
            assert_eq!(ip.is_ipv4(), family == Family::V4);
            let refused = Refusal::of(SocketAddr::new(ip, 80)).is_some();
            assert!(refused || !(ip.is_unspecified() || ip.is_multicast()), "{ip} is taken");
        }
    }
    let targets = records::targets(&message.answers);
    assert!(targets.is_sorted_by(|a, b| (&a.name, a.port) <= (&b.name, b.port)));
    let glue = records::glue(&message.additionals);
    let shares: Vec<(u16, usize)> = targets
        .iter()
        .flat_map(|target| {
            let found =
                Family::ALL.into_iter().filter_map(|it| glue.get(&(target.name.clone(), it)));
            found.map(|addresses| (target.weight, addresses.ips.len()))
        })
        .collect();
    let weights = records::weights(&shares);
    assert_eq!(weights.len(), shares.len());
    assert!(weights.iter().all(|weight| (1..=WEIGHT_MAX).contains(weight)), "{weights:?}");
}
