//! Tables and properties of [`Resolution`]. The properties judge by a model that knows only the
//! history of answers.

use super::*;
use proptest::prelude::*;

const RULES: Rules = Rules {
    ttl_min: Duration::from_secs(1),
    ttl_max: Duration::from_mins(1),
    serve_stale: Duration::from_mins(10),
    removal_delay: Duration::from_secs(10),
    grace: Duration::from_secs(30),
    members_max: 4,
};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn v4(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 80))
}

fn v6(host: u16) -> SocketAddr {
    SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, host], 80))
}

/// A complete answer with a TTL of 5 s.
fn names(addresses: &[SocketAddr]) -> Answer {
    Answer {
        found: addresses.iter().map(|address| (*address, 1)).collect(),
        v4: Coverage::Complete,
        v6: Coverage::Complete,
        ttl: Some(s(5)),
    }
}

/// Present members, then departed ones.
fn split(members: &[Member]) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let of = |presence| {
        let members = members.iter().filter(move |member| member.presence == presence);
        members.map(|member| member.address).collect()
    };
    (of(Presence::Present), of(Presence::Departed))
}

fn told(resolution: &Resolution) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    split(resolution.members().expect("the set is known"))
}

fn resolution() -> Resolution {
    Resolution::new(RULES, s(0))
}

#[test]
fn ttl_is_bounded_both_ways() {
    for (ttl, delay) in [(0, 1), (5, 5), (3_600, 60)] {
        let mut resolution = resolution();
        resolution.answer(s(100), &Answer { ttl: Some(s(ttl)), ..names(&[v4(1)]) });
        assert_eq!(resolution.query_at(), s(100 + delay), "TTL {ttl}");
    }
}

#[test]
fn failures_back_off_up_to_ttl_max_and_keep_members() {
    let mut resolution = resolution();
    resolution.answer(s(0), &names(&[v4(1)]));
    let mut delays = Vec::new();
    for _ in 0..8 {
        let now = resolution.query_at();
        assert_eq!(resolution.answer(now, &Answer::FAILED), None);
        delays.push(resolution.query_at().saturating_sub(now).as_secs());
    }
    assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(told(&resolution), (vec![v4(1)], vec![]));
    resolution.answer(s(500), &names(&[v4(1)]));
    resolution.answer(s(505), &Answer::FAILED);
    assert_eq!(resolution.query_at(), s(506), "an answer ends the backing off");
}

#[test]
fn a_missing_address_departs_after_the_delay_and_vanishes_after_the_grace() {
    let mut resolution = resolution();
    resolution.answer(s(0), &names(&[v4(1), v4(2)]));
    assert_eq!(resolution.answer(s(5), &names(&[v4(1)])), None, "missing once");
    assert_eq!(resolution.answer(s(14), &names(&[v4(1)])), None, "missing for 9 s");
    assert_eq!(resolution.change_at(), Some(s(15)));
    assert_eq!(resolution.tick(s(14)), None);
    let members = resolution.tick(s(15)).expect("the address departs");
    assert_eq!(split(&members), (vec![v4(1)], vec![v4(2)]));
    assert_eq!(resolution.change_at(), Some(s(45)));
    let members = resolution.tick(s(45)).expect("the address vanishes");
    assert_eq!(split(&members), (vec![v4(1)], vec![]));
    assert_eq!(resolution.change_at(), None);
}

#[test]
fn one_missing_answer_is_not_enough_however_long_ago() {
    let mut resolution = resolution();
    resolution.answer(s(0), &names(&[v4(1)]));
    resolution.answer(s(5), &names(&[]));
    assert_eq!(resolution.tick(s(300)), None);
    let members = resolution.answer(s(300), &names(&[])).expect("missing from two answers");
    assert_eq!(split(&members), (vec![], vec![v4(1)]));
}

#[test]
fn a_departed_address_returns_at_once() {
    let mut resolution = resolution();
    resolution.answer(s(0), &names(&[v4(1), v4(2)]));
    resolution.answer(s(5), &names(&[v4(1)]));
    resolution.answer(s(15), &names(&[v4(1)]));
    assert_eq!(told(&resolution), (vec![v4(1)], vec![v4(2)]));
    resolution.answer(s(20), &names(&[v4(1), v4(2)]));
    assert_eq!(told(&resolution), (vec![v4(1), v4(2)], vec![]));
}

#[test]
fn answers_that_take_turns_become_their_union() {
    let mut resolution = resolution();
    for round in 0..100_u8 {
        resolution.answer(s(u64::from(round) * 5), &names(&[v4(round % 3)]));
        if round >= 2 {
            assert_eq!(told(&resolution), (vec![v4(0), v4(1), v4(2)], vec![]), "round {round}");
        }
    }
}

#[test]
fn a_family_that_fails_keeps_its_members() {
    let mut resolution = resolution();
    resolution.answer(s(0), &names(&[v4(1), v6(1)]));
    for now in [5, 10, 20, 40] {
        let answer = Answer { v6: Coverage::Unknown, ..names(&[v4(2)]) };
        resolution.answer(s(now), &answer);
    }
    assert_eq!(told(&resolution), (vec![v4(2), v6(1)], vec![v4(1)]));
}

#[test]
fn stale_members_depart_after_the_limit() {
    let mut resolution = resolution();
    resolution.answer(s(0), &names(&[v4(1)]));
    resolution.answer(s(5), &Answer::FAILED);
    assert_eq!(resolution.change_at(), Some(s(605)));
    assert_eq!(resolution.tick(s(604)), None);
    resolution.tick(s(605));
    assert_eq!(told(&resolution), (vec![], vec![v4(1)]));
    resolution.tick(s(635));
    assert_eq!(told(&resolution), (vec![], vec![]));
}

#[test]
fn an_unknown_set_becomes_empty_only_by_two_answers_and_time() {
    let mut resolution = resolution();
    assert_eq!(resolution.answer(s(0), &Answer::FAILED), None);
    assert_eq!(resolution.answer(s(1), &names(&[])), None);
    assert_eq!(resolution.answer(s(6), &names(&[])), None);
    assert_eq!(resolution.next_at(), s(11));
    assert_eq!(resolution.tick(s(11)), Some(vec![]));
    assert_eq!(resolution.tick(s(12)), None, "told once");
}

#[test]
fn a_full_set_counts_what_it_leaves_out_and_forgets_the_departed_first() {
    let mut resolution = resolution();
    let five = [v4(1), v4(2), v4(3), v4(4), v4(5)];
    resolution.answer(s(0), &names(&five));
    assert_eq!((told(&resolution).0.len(), resolution.excess()), (4, 1));
    resolution.answer(s(5), &names(&five[1..4]));
    resolution.answer(s(15), &names(&five[1..4]));
    assert_eq!(told(&resolution).1, vec![v4(1)]);
    resolution.answer(s(16), &names(&five[1..]));
    assert_eq!(told(&resolution), (five[1..].to_vec(), vec![]));
    assert_eq!(resolution.excess(), 0);
}

#[test]
fn weights_are_bounded_and_their_change_is_news() {
    let mut resolution = resolution();
    for (weight, expected) in [(0, 1), (7, 7), (65_535, WEIGHT_MAX)] {
        let answer = Answer { found: vec![(v4(1), weight)], ..names(&[]) };
        let members = resolution.answer(s(1), &answer).expect("the weight changed");
        assert_eq!(members[0].weight, expected);
    }
}

#[test]
fn new_rules_ask_at_once() {
    let mut resolution = resolution();
    resolution.answer(s(0), &names(&[v4(1)]));
    resolution.set_rules(Rules { ttl_min: s(30), ..RULES }, s(2));
    assert_eq!(resolution.query_at(), s(2));
    assert_eq!(told(&resolution), (vec![v4(1)], vec![]));
}

// === properties ===

/// One step of a history: time passes, then perhaps an answer comes.
type Step = (u64, Option<Answer>);

fn addresses() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![(0..6_u8).prop_map(v4), (0..6_u16).prop_map(v6)]
}

fn answers() -> impl Strategy<Value = Answer> {
    let coverage = || prop_oneof![3 => Just(Coverage::Complete), 1 => Just(Coverage::Unknown)];
    let found = prop::collection::vec((addresses(), 0..70_000_u32), 0..8);
    let ttl = prop::option::of((0..100_u64).prop_map(s));
    (found, coverage(), coverage(), ttl).prop_map(|(found, v4, v6, ttl)| Answer {
        found,
        v4,
        v6,
        ttl,
    })
}

fn histories() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0..12_u64, prop::option::weighted(0.8, answers())), 1..60)
}

fn rules() -> impl Strategy<Value = Rules> {
    (0..40_u64, 0..20_u64, 0..20_u64).prop_map(|(stale, delay, grace)| Rules {
        serve_stale: s(stale),
        removal_delay: s(delay),
        grace: s(grace),
        members_max: 100,
        ..RULES
    })
}

/// What one address must be, from the answers alone: its presence, or `None` if it is no member.
fn model(rules: &Rules, history: &[Step], address: SocketAddr) -> Option<Presence> {
    let (mut now, mut state) = (s(0), None);
    let (mut missing, mut failing, mut seen) = (Vec::new(), None, s(0));
    for (pause, answer) in history {
        now += s(*pause);
        if let Some(answer) = answer {
            let coverage = if address.is_ipv4() { answer.v4 } else { answer.v6 };
            let named = answer.found.iter().any(|(found, _)| *found == address);
            match coverage {
                Coverage::Complete => failing = None,
                Coverage::Unknown => failing = failing.or(Some(now)),
            }
            if named {
                (state, seen) = (Some((Presence::Present, now)), now);
                missing.clear();
            } else if coverage == Coverage::Complete {
                missing.push(now);
            }
        }
        if matches!(state, Some((Presence::Present, _))) {
            let removed = missing.len() >= 2 && now >= missing[0] + rules.removal_delay;
            let expired = failing.is_some_and(|since| now >= since.max(seen) + rules.serve_stale);
            if removed || expired {
                state = Some((Presence::Departed, now));
            }
        }
        if state.is_some_and(|(presence, since)| {
            presence == Presence::Departed && now >= since + rules.grace
        }) {
            state = None;
        }
    }
    state.map(|(presence, _)| presence)
}

proptest! {
    #[test]
    fn members_are_what_the_history_says(rules in rules(), history in histories()) {
        let (mut resolution, mut now) = (Resolution::new(rules, s(0)), s(0));
        for (index, (pause, answer)) in history.iter().enumerate() {
            now += s(*pause);
            let before = resolution.members().map(<[Member]>::to_vec);
            let news = match answer {
                Some(answer) => resolution.answer(now, answer),
                None => resolution.tick(now),
            };
            let after = resolution.members().map(<[Member]>::to_vec);
            prop_assert_eq!(news.is_some(), before != after);
            if let Some(at) = resolution.change_at() {
                prop_assert!(at > now, "what is due was done");
            }
            if answer.is_some() {
                prop_assert!(resolution.query_at() > now);
                prop_assert!(resolution.query_at() <= now + rules.ttl_max);
            }
            for address in (0..6).map(v4).chain((0..6).map(v6)) {
                let members = after.iter().flatten();
                let presence = members
                    .filter(|member| member.address == address)
                    .map(|member| member.presence)
                    .next();
                prop_assert_eq!(presence, model(&rules, &history[..=index], address));
            }
        }
    }

    #[test]
    fn a_small_set_never_overflows_and_keeps_what_is_present(history in histories()) {
        let (mut resolution, mut now) = (resolution(), s(0));
        for (pause, answer) in history {
            now += s(pause);
            let before = resolution.members().map(split).unwrap_or_default().0;
            let Some(answer) = answer else { continue };
            let found: BTreeSet<_> = answer.found.iter().map(|(address, _)| *address).collect();
            resolution.answer(now, &answer);
            let members = resolution.members().unwrap_or_default();
            prop_assert!(members.len() <= RULES.members_max);
            let (present, _) = split(members);
            prop_assert!(before.iter().all(|a| !found.contains(a) || present.contains(a)));
            let left_out = found.iter().filter(|a| !present.contains(a)).count();
            prop_assert_eq!(left_out, resolution.excess());
        }
    }

    #[test]
    fn extreme_rules_and_times_do_not_panic(
        times in prop::collection::vec(any::<u64>(), 1..20),
        answer in answers(),
        durations: [u64; 5],
    ) {
        let [ttl_min, ttl_max, serve_stale, removal_delay, grace] = durations.map(s);
        let members_max = 3;
        let rules = Rules { ttl_min, ttl_max, serve_stale, removal_delay, grace, members_max };
        let mut resolution = Resolution::new(rules, Duration::MAX);
        for time in times {
            resolution.answer(s(time), &answer);
            resolution.tick(Duration::MAX);
            prop_assert!(resolution.next_at() <= resolution.query_at());
        }
    }
}
