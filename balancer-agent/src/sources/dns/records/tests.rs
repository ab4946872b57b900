//! Tables of records.

use super::*;
use hickory_resolver::proto::rr::rdata::SRV;
use proptest::prelude::*;
use std::str::FromStr;

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Record {
    let data = RData::SRV(SRV::new(priority, weight, port, Name::from_str(target).unwrap()));
    Record::from_rdata(Name::from_str("_grpc._tcp.shop.test.").unwrap(), 30, data)
}

fn address(name: &str, ttl: u32, ip: &str) -> Record {
    let data = RData::from(ip.parse::<IpAddr>().unwrap());
    Record::from_rdata(Name::from_str(name).unwrap(), ttl, data)
}

#[test]
fn addresses_that_nobody_can_dial_are_refused() {
    for (text, refusal) in [
        ("10.0.0.1:80", None),
        ("127.0.0.1:80", None),
        ("[fd00::1]:80", None),
        ("0.0.0.0:80", Some(Refusal::Unspecified)),
        ("[::]:80", Some(Refusal::Unspecified)),
        ("224.0.0.1:80", Some(Refusal::Multicast)),
        ("[ff02::1]:80", Some(Refusal::Multicast)),
        ("255.255.255.255:80", Some(Refusal::Broadcast)),
        ("[fe80::1]:80", Some(Refusal::LinkLocal)),
        ("[::ffff:10.0.0.1]:80", Some(Refusal::Mapped)),
        ("10.0.0.1:0", Some(Refusal::PortZero)),
    ] {
        assert_eq!(Refusal::of(text.parse().unwrap()), refusal, "{text}");
    }
}

#[test]
fn only_the_lowest_priority_value_counts() {
    let records = [
        srv(20, 1, 80, "spare.test."),
        srv(10, 5, 81, "B.test."),
        srv(10, 0, 80, "a.test."),
        srv(0, 0, 0, "."),
    ];
    let found: Vec<_> = targets(&records)
        .into_iter()
        .map(|target| (target.name.to_string(), target.port, target.weight))
        .collect();
    assert_eq!(found, [("a.test.".to_owned(), 80, 0), ("b.test.".to_owned(), 81, 5)]);
    assert_eq!(targets(&records[3..]), []);
}

#[test]
fn glue_is_found_by_name_and_family_whatever_the_case() {
    let records = [
        address("A.test.", 60, "10.0.0.1"),
        address("a.test.", 20, "10.0.0.2"),
        address("a.test.", 90, "fd00::1"),
    ];
    let glue = glue(&records);
    let key = |family| (Name::from_str("a.test.").unwrap(), family);
    let v4 = &glue[&key(Family::V4)];
    assert_eq!((v4.ips.len(), v4.ttl), (2, Some(Duration::from_secs(20))));
    let v6 = &glue[&key(Family::V6)];
    assert_eq!((v6.ips.len(), v6.ttl), (1, Some(Duration::from_secs(90))));
}

#[test]
fn the_smallest_ttl_counts_and_a_negative_one_is_zero() {
    let of = |ttls: &[u32]| {
        let records: Vec<_> = ttls.iter().map(|ttl| address("a.test.", *ttl, "10.0.0.1")).collect();
        addresses(&records, Family::V4).ttl.map(|ttl| ttl.as_secs())
    };
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[60, 5, 90]), Some(5));
    assert_eq!(of(&[60, 1 << 31]), Some(0));
}

#[test]
fn weights_are_shared_by_the_addresses_of_a_target() {
    for (shares, expected) in [
        (&[][..], &[][..]),
        (&[(10, 1), (20, 1), (0, 1)], &[10, 20, 1]),
        (&[(0, 1), (0, 1)], &[1, 1]),
        (&[(1, 1), (1, 2), (1, 2)], &[2, 1, 1]),
        (&[(1, 1), (1, 3), (1, 3), (1, 3)], &[3, 1, 1, 1]),
        (&[(65_535, 1), (13_107, 1), (1, 1)], &[1_000, 200, 1]),
    ] {
        assert_eq!(weights(shares), expected, "{shares:?}");
    }
}

proptest! {
    #[test]
    fn weights_are_always_in_range(shares: Vec<(u16, usize)>) {
        let weights = weights(&shares);
        prop_assert_eq!(weights.len(), shares.len());
        prop_assert!(weights.iter().all(|weight| (1..=WEIGHT_MAX).contains(weight)));
    }
}
