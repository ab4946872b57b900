//! The planner in simulated nodes: clients that obey after a while, dial anew and come and go.

use super::*;
use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// Time between two plans.
const STEP: Duration = Duration::from_millis(200);
const SERVICE: u32 = 1;

/// A node with its clients' connections to one service.
struct SimulatedNode {
    planner: Rebalancer,
    load: ServiceLoad,
    now: Duration,
    next_cookie: u64,
    /// Connections whose clients were told: when they leave, and where they go.
    told: BTreeMap<u64, (Duration, Option<u32>)>,
    rng: StdRng,
    moves: Vec<Move>,
}

// === impl SimulatedNode ===

impl SimulatedNode {
    fn new(rank: u32, backends: u32) -> Self {
        let mut node = Self {
            planner: Rebalancer::new(Caution::default(), rank),
            load: ServiceLoad { spreads: true, ..ServiceLoad::default() },
            now: Duration::from_hours(1),
            next_cookie: 1,
            told: BTreeMap::new(),
            rng: StdRng::seed_from_u64(u64::from(rank)),
            moves: Vec::new(),
        };
        for id in 1..=backends {
            node.add_backend(id);
        }
        node
    }

    fn add_backend(&mut self, id: u32) {
        let host = u8::try_from(id).unwrap();
        let address = SocketAddr::from(([10, 1, 0, host], 50_051));
        let standing = Standing::Serving { since: self.now };
        self.load.backends.insert(id, BackendLoad { address, weight: 1, standing });
    }

    fn serving(&self) -> Vec<u32> {
        let is_serving = |it: &BackendLoad| matches!(it.standing, Standing::Serving { .. });
        let serving = self.load.backends.iter().filter(|(_, it)| is_serving(it));
        serving.map(|(id, _)| *id).collect()
    }

    fn counts(&self) -> BTreeMap<u32, u32> {
        let mut counts: BTreeMap<u32, u32> = self.load.backends.keys().map(|id| (*id, 0)).collect();
        for flow in &self.load.flows {
            *counts.get_mut(&flow.backend).unwrap() += 1;
        }
        counts
    }

    fn dial(&mut self, pod: u64, to: Option<u32>) {
        let serving = self.serving();
        if serving.is_empty() {
            return;
        }
        let at_random = serving[self.rng.random_range(0..serving.len())];
        let backend = to.filter(|id| serving.contains(id)).unwrap_or(at_random);
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let (since, in_flight) = (self.now, self.rng.random_range(0..3));
        let flow = FlowLoad {
            cookie,
            pod,
            backend,
            since,
            in_flight,
            opened: 0,
            is_movable: true,
            is_moved: false,
        };
        self.load.flows.push(flow);
    }

    /// One plan, and what clients do until the next.
    fn step(&mut self) -> usize {
        self.now += STEP;
        let (now, told) = (self.now, std::mem::take(&mut self.told));
        let (left, staying): (Vec<_>, _) = told.into_iter().partition(|(_, (at, _))| *at <= now);
        self.told = staying.into_iter().collect();
        for (cookie, (_, to)) in left {
            let at = self.load.flows.iter().position(|flow| flow.cookie == cookie).unwrap();
            let gone = self.load.flows.swap_remove(at);
            self.dial(gone.pod, to);
        }
        let moves = self.planner.plan(SERVICE, &self.load, self.now);
        for it in &moves {
            let delay = STEP * self.rng.random_range(0..3);
            let known = self.told.insert(it.cookie, (self.now + delay, it.to));
            assert!(known.is_none(), "{it:?} is moved twice");
            let flow = self.load.flows.iter_mut().find(|flow| flow.cookie == it.cookie).unwrap();
            assert_eq!((flow.backend, flow.is_movable), (it.from, true));
            let is_old = now.saturating_sub(flow.since) >= Caution::default().age_min;
            assert!(is_old || it.cause == Cause::Leaving, "{it:?} is too young");
            flow.is_movable = false;
        }
        self.moves.extend(&moves);
        moves.len()
    }

    fn steps(&mut self, count: usize) -> usize {
        (0..count).map(|_| self.step()).sum()
    }
}

fn excess(counts: &BTreeMap<u32, u32>) -> u32 {
    counts.values().max().unwrap() - counts.values().min().unwrap()
}

#[test]
fn new_backends_get_their_share_by_as_few_moves_as_that_takes() {
    let mut node = SimulatedNode::new(3, 4);
    for client in 0..32 {
        node.dial(client, Some(u32::try_from(client % 4).unwrap() + 1));
    }
    assert_eq!(node.steps(100), 0, "nothing to do");
    node.add_backend(5);
    node.add_backend(6);
    let began = node.now;
    node.steps(10);
    // Two seconds: what was told, clients have left.
    assert!(node.now.saturating_sub(began) <= Duration::from_secs(2));
    node.steps(2);
    let counts = node.counts();
    assert!(excess(&counts) <= 1, "{counts:?}");
    assert!(counts[&5] + counts[&6] >= 10, "{counts:?}");
    assert!(node.moves.len() <= 11, "{:?}", node.moves);
    assert!(node.moves.iter().all(|it| it.cause == Cause::NewBackend));
    assert_eq!(node.steps(1_000), 0, "and then there is peace");
}

#[test]
fn who_leaves_is_left_at_once_and_evenly() {
    let mut node = SimulatedNode::new(0, 4);
    for client in 0..40 {
        node.dial(client, Some(u32::try_from(client % 4).unwrap() + 1));
    }
    node.steps(3);
    node.load.backends.get_mut(&2).unwrap().standing = Standing::Leaving;
    assert_eq!(node.step(), 10, "age and budget are no reason to stay");
    assert!(node.moves.iter().all(|it| it.cause == Cause::Leaving && it.from == 2));
    node.steps(4);
    let counts = node.counts();
    assert_eq!(counts[&2], 0);
    assert_eq!(counts.values().filter(|count| (13..=14).contains(*count)).count(), 3);
    assert_eq!(node.steps(100), 0);
}

#[test]
fn an_imbalance_is_mended_and_a_small_one_is_none() {
    let mut node = SimulatedNode::new(0, 4);
    for (backend, count) in [(1, 9), (2, 8), (3, 7), (4, 8)] {
        (0..count).for_each(|pod| node.dial(pod, Some(backend)));
    }
    assert_eq!(node.steps(100), 0, "one more than its share is no reason");
    (0..24).for_each(|pod| node.dial(100 + pod, Some(1)));
    node.steps(80);
    assert!(excess(&node.counts()) <= 1, "{:?}", node.counts());
    assert!(node.moves.len() <= 20, "{}", node.moves.len());
    assert!(node.moves.iter().all(|it| it.cause == Cause::Imbalance));
    assert_eq!(node.steps(1_000), 0);
}

#[test]
fn what_is_asked_for_is_previewed_and_done() {
    let mut node = SimulatedNode::new(0, 2);
    for (backend, count) in [(1, 5), (2, 3)] {
        (0..count).for_each(|pod| node.dial(pod, Some(backend)));
    }
    assert_eq!(node.steps(100), 0);
    let preview = node.planner.preview(SERVICE, &node.load, node.now);
    assert_eq!(preview.len(), 1);
    assert_eq!((preview[0].from, preview[0].to), (1, Some(2)));
    assert_eq!(node.steps(100), 0, "a preview begins nothing");
    node.planner.ask(SERVICE);
    node.steps(10);
    assert_eq!(excess(&node.counts()), 0);
    assert_eq!(node.steps(100), 0);
}

#[test]
fn who_ignores_what_it_is_told_is_left_alone_and_counts_where_it_is() {
    let mut node = SimulatedNode::new(0, 2);
    (0..8).for_each(|pod| node.dial(pod, Some(1)));
    node.now += Duration::from_secs(10);
    let told = node.planner.plan(SERVICE, &node.load, node.now);
    assert_eq!(told.len(), 4, "half of them");
    let mut told: BTreeSet<u64> = told.iter().map(|it| it.cookie).collect();
    let mut now = node.now;
    for _ in 0..2_000 {
        now += STEP;
        for it in node.planner.plan(SERVICE, &node.load, now) {
            assert!(told.insert(it.cookie), "told twice");
        }
    }
    let stubborn: BTreeSet<u64> = node.planner.stubborn(SERVICE).collect();
    assert_eq!(stubborn, told);
    assert_eq!(stubborn.len(), 8, "since the first four stayed, the others were asked");
}

#[test]
fn a_moved_connection_counts_where_its_client_went() {
    let mut node = SimulatedNode::new(0, 2);
    (0..8).for_each(|pod| node.dial(pod, Some(1)));
    node.now += Duration::from_secs(10);
    let told = node.planner.plan(SERVICE, &node.load, node.now);
    // Their clients heard, and dialled anew; long streams keep the old connections.
    for it in &told {
        let flow = node.load.flows.iter_mut().find(|flow| flow.cookie == it.cookie).unwrap();
        (flow.is_movable, flow.is_moved) = (false, true);
        node.dial(it.pod, it.to);
    }
    assert_eq!(node.steps(1_000), 0, "four and four");
    assert_eq!(node.planner.stubborn(SERVICE).count(), 0, "long streams are no disobedience");
    // One of them opens streams on its old connection all the same.
    let old = node.load.flows.iter_mut().find(|flow| flow.is_moved).unwrap();
    old.opened += 1;
    let cookie = old.cookie;
    node.step();
    assert_eq!(node.planner.stubborn(SERVICE).collect::<Vec<_>>(), [cookie]);
}

#[test]
fn where_cursors_lead_a_pods_connections_move_one_after_the_other() {
    let mut node = SimulatedNode::new(0, 2);
    node.load.in_turn = true;
    for _ in 0..4 {
        (0..2).for_each(|pod| node.dial(pod, Some(1)));
    }
    node.now += Duration::from_secs(10);
    let mut most = 0;
    for _ in 0..200 {
        let before = node.moves.len();
        node.step();
        let pods: BTreeSet<u64> = node.moves[before..].iter().map(|it| it.pod).collect();
        assert_eq!(pods.len(), node.moves.len() - before, "one of each pod at a time");
        most = most.max(pods.len());
    }
    assert_eq!(most, 2, "both at once");
    assert!(excess(&node.counts()) <= 2, "{:?}", node.counts());
}

#[test]
fn hashed_connections_move_only_off_who_leaves() {
    let mut node = SimulatedNode::new(0, 3);
    node.load.spreads = false;
    (0..30).for_each(|pod| node.dial(pod, Some(1)));
    node.add_backend(4);
    assert_eq!(node.steps(100), 0);
    node.load.backends.get_mut(&1).unwrap().standing = Standing::Leaving;
    assert_eq!(node.step(), 30);
}

#[test]
fn a_service_is_remembered_until_its_last_client_has_left() {
    let mut node = SimulatedNode::new(0, 2);
    node.dial(1, Some(1));
    node.steps(50);
    node.planner.retain(|_| true);
    assert_eq!(node.planner.remembered().collect::<Vec<_>>(), [SERVICE]);
    node.load.backends.get_mut(&1).unwrap().standing = Standing::Leaving;
    assert_eq!(node.planner.plan(SERVICE, &node.load, node.now).len(), 1);
    // It left, and may yet show up elsewhere.
    node.load.flows.clear();
    node.step();
    node.planner.retain(|_| true);
    assert_eq!(node.planner.remembered().count(), 1);
    node.now += ARRIVAL_MAX;
    node.step();
    node.planner.retain(|_| true);
    assert_eq!(node.planner.remembered().count(), 0);
}

/// Each of many agents sees its own connections only.
fn converge(nodes: u32, connections: u64) -> f64 {
    let mut cluster: Vec<_> = (0..nodes).map(|rank| SimulatedNode::new(rank, 4)).collect();
    for (rank, node) in cluster.iter_mut().enumerate() {
        // As the kernel's schedules deal them.
        for client in 0..connections {
            let slot = (rank as u64 + client) % 4;
            node.dial(client, Some(u32::try_from(slot).unwrap() + 1));
        }
        node.steps(50);
        node.add_backend(5);
        node.add_backend(6);
        node.steps(100);
        assert_eq!(node.steps(200), 0, "node {rank} does not come to rest");
    }
    let mut totals: BTreeMap<u32, u32> = BTreeMap::new();
    for node in &cluster {
        for (id, count) in node.counts() {
            *totals.entry(id).or_default() += count;
        }
    }
    let peak = f64::from(*totals.values().max().unwrap());
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let mean = (u64::from(nodes) * connections) as f64 / 6.0;
    peak / mean
}

#[test]
fn a_hundred_agents_converge_without_a_word_between_them() {
    for connections in [1, 2, 3, 4, 7, 10, 32] {
        let peak = converge(100, connections);
        println!("{connections} connections each: peak/mean {peak:.3}");
        assert!(peak <= 1.1, "{connections} connections each: peak/mean {peak:.3}");
    }
}

#[test]
fn moves_die_out_when_load_is_steady() {
    let mut node = SimulatedNode::new(7, 6);
    for client in 0..60 {
        node.dial(client, None);
    }
    // Ten thousand steps; load changes in the first half: clients come and go, backends too.
    for step in 0..5_000 {
        if node.rng.random_bool(0.05) && node.load.flows.len() > 20 {
            let at = node.rng.random_range(0..node.load.flows.len());
            let cookie = node.load.flows[at].cookie;
            if !node.told.contains_key(&cookie) {
                node.load.flows.swap_remove(at);
            }
        }
        if node.rng.random_bool(0.05) {
            node.dial(1_000 + step, None);
        }
        if step % 500 == 499 {
            let id = u32::try_from(step / 500 % 6).unwrap() + 1;
            let standing = Standing::Serving { since: node.now };
            let backend = node.load.backends.get_mut(&id).unwrap();
            let leaves = matches!(backend.standing, Standing::Serving { .. });
            backend.standing = if leaves { Standing::Leaving } else { standing };
        }
        node.step();
    }
    node.steps(300);
    assert_eq!(node.steps(4_700), 0, "{:?}", node.counts());
}

proptest! {
    #[test]
    fn any_load_comes_to_rest(
        rank in 0u32..1_000, backends in 1u32..8, clients in 0u64..80, joining in 0u32..4,
    ) {
        let mut node = SimulatedNode::new(rank, backends);
        for client in 0..clients {
            node.dial(client, None);
        }
        node.steps(40);
        for id in 0..joining {
            node.add_backend(backends + 1 + id);
        }
        node.steps(200);
        prop_assert_eq!(node.steps(100), 0);
        let counts = node.counts();
        // Nobody is further from its share than what is let go.
        let mean = f64::from(u32::try_from(clients).unwrap()) / f64::from(backends + joining);
        for count in counts.values() {
            prop_assert!(f64::from(*count) <= (mean.ceil() + 2.0).max(mean.ceil() * 1.25), "{:?}", counts);
        }
    }
}
