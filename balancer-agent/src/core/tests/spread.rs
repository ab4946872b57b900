//! How connections spread over backends: of one pod, of many, and of many nodes.

use super::{LIMITS, Node, VIP, at, endpoint, service};
use crate::core::model::{Endpoint, Policy, Service, WEIGHT_MAX};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

fn exact(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

fn spread(counts: &BTreeMap<SocketAddr, u32>) -> (f64, f64) {
    let counts: Vec<f64> = counts.values().copied().map(f64::from).collect();
    let mean = counts.iter().sum::<f64>() / exact(counts.len());
    let variance = counts.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / exact(counts.len());
    (variance.sqrt() / mean, counts.iter().copied().fold(0.0, f64::max) / mean)
}

#[test]
fn a_hundred_nodes_with_one_connection_each_are_balanced_together() {
    for policy in [Policy::RoundRobin, Policy::LeastConnection] {
        let mut counts = BTreeMap::new();
        for rank in 0..100 {
            let mut node = Node::new(LIMITS, rank);
            node.declare([Service { policy, ..service("a", VIP, (0..10).map(endpoint)) }]);
            *counts.entry(node.maps.connect(at(VIP), 1).unwrap().address).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 10);
        assert!(spread(&counts).1 <= 1.1, "{policy:?}: {counts:?}");
    }
}

#[test]
fn pods_are_balanced_each_for_itself_and_all_together() {
    for policy in [Policy::RoundRobin, Policy::LeastConnection] {
        let declared = Service { policy, ..service("a", VIP, (0..8).map(endpoint)) };
        let mut node = Node::with([declared.clone()]);
        let own: BTreeSet<SocketAddr> =
            (0..8).map(|_| node.maps.connect(at(VIP), 1).unwrap().address).collect();
        assert_eq!(own.len(), 8, "{policy:?}: as many backends as connections");
        let mut node = Node::with([declared]);
        let mut counts = BTreeMap::new();
        for pod in 0..64 {
            *counts.entry(node.maps.connect(at(VIP), pod).unwrap().address).or_insert(0) += 1;
        }
        assert!(spread(&counts).0 <= 0.02, "{policy:?}: {counts:?}");
    }
}

proptest! {
    #[test]
    fn weights_are_kept(weights in proptest::collection::vec(1..=WEIGHT_MAX, 1..8)) {
        let endpoints = (0u8..).zip(&weights).map(|(n, w)| Endpoint { weight: *w, ..endpoint(n) });
        let mut node = Node::with([service("a", VIP, endpoints)]);
        let connects = 4_000;
        let mut counts: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        for _ in 0..connects {
            *counts.entry(node.maps.connect(at(VIP), 1).unwrap().address).or_default() += 1;
        }
        let sum = f64::from(weights.iter().sum::<u32>());
        for (count, weight) in counts.values().zip(&weights) {
            let error = f64::from(*count) / f64::from(connects) - f64::from(*weight) / sum;
            prop_assert!(error.abs() < 0.01, "{counts:?} for {weights:?}");
        }
    }
}
