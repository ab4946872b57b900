//! The registry's plans: what is skipped, in which order it is written, and what is left as it is.

use super::{
    LocalPod, NodeCgroups, NodePods, PodObject, PodUid, Wishes,
    cgroup_path::{PodCgroup, QosClass},
    registry::{PodWrite, Registry},
};
use balancer_common::{hierarchy::Hierarchy, pod::Skip};
use std::collections::{BTreeMap, BTreeSet};

const HIERARCHY: Hierarchy = Hierarchy {
    kubepods: 10,
    burstable: 11,
    besteffort: 12,
    level: 1,
    search_levels: 0,
    skipping: 0,
    reserved: 0,
};

fn uid(id: u64) -> PodUid {
    PodUid::new(&format!("uid-{id}")).unwrap()
}

fn cgroups(ids: &[u64]) -> NodeCgroups {
    let local = |id: u64| LocalPod {
        cgroup: PodCgroup { uid: uid(id), qos: QosClass::Burstable },
        path: format!("/kubepods/burstable/poduid-{id}"),
    };
    NodeCgroups { hierarchy: HIERARCHY, pods: ids.iter().map(|id| (*id, local(*id))).collect() }
}

const OUT: Wishes = Wishes { opted_out: true, http2_off: false };

fn object(id: u64) -> PodObject {
    PodObject {
        uid: uid(id),
        namespace: if id.is_multiple_of(2) { "even" } else { "odd" }.into(),
        name: format!("pod-{id}"),
        host_network: false,
        mesh_proxy: None,
        wishes: Wishes::default(),
    }
}

fn node_pods(objects: impl IntoIterator<Item = PodObject>) -> NodePods {
    let pods = objects.into_iter().map(|object| (object.uid.clone(), object)).collect();
    NodePods { pods, ..NodePods::default() }
}

/// Plans, applies, and checks that nothing is left to do.
fn settle(registry: &mut Registry) -> Vec<PodWrite> {
    let writes = registry.plan();
    for write in &writes {
        registry.landed(*write);
    }
    assert_eq!(registry.plan(), []);
    writes
}

fn skipping(on: u32) -> PodWrite {
    PodWrite::Hierarchy(Hierarchy { skipping: on, ..HIERARCHY })
}

#[test]
fn reasons_to_skip_and_the_order_of_writes() {
    let mut registry = Registry::default();
    assert_eq!(registry.plan(), [], "nothing is known");
    registry.observe_cgroups(cgroups(&[1, 2, 3]));
    assert_eq!(settle(&mut registry), [skipping(0)]);

    let proxied = PodObject { mesh_proxy: Some("istio-proxy".into()), ..object(1) };
    let unwilling = PodObject { wishes: OUT, mesh_proxy: Some("x".into()), ..object(3) };
    registry.observe_pods(node_pods([proxied.clone(), object(2), unwilling]));
    let skip = |pod, skip| PodWrite::Skip { pod, skip };
    assert_eq!(
        settle(&mut registry),
        [skip(1, Skip::MESH_PROXY), skip(3, Skip::OPTED_OUT), skipping(1)]
    );
    let known: Vec<_> = registry.pods().map(|pod| (pod.id, pod.skip)).collect();
    assert_eq!(known, [(1, Some(Skip::MESH_PROXY)), (2, None), (3, Some(Skip::OPTED_OUT))]);

    let mut pods = node_pods([proxied, object(2), object(3)]);
    pods.namespaces.insert("even".into(), OUT);
    registry.observe_pods(pods);
    let removed = |pod| PodWrite::SkipRemoved { pod };
    assert_eq!(settle(&mut registry), [skip(2, Skip::OPTED_OUT), removed(3)]);

    registry.observe_cgroups(cgroups(&[3]));
    assert_eq!(settle(&mut registry), [skipping(0), removed(1), removed(2)]);
    assert_eq!(registry.take_departed(), BTreeSet::from([1, 2]));
    assert_eq!(registry.take_departed(), BTreeSet::new());
}

#[test]
fn what_an_earlier_agent_skipped_is_kept_until_the_api_has_spoken() {
    let skips = BTreeMap::from([(1, Skip::OPTED_OUT), (2, Skip::MESH_PROXY), (9, Skip::OPTED_OUT)]);
    let mut registry = Registry::adopt(Hierarchy { skipping: 1, ..HIERARCHY }, skips);
    assert_eq!(registry.plan(), [], "unknown is not empty");
    registry.observe_cgroups(cgroups(&[1, 2]));
    assert_eq!(settle(&mut registry), [PodWrite::SkipRemoved { pod: 9 }]);
    registry.observe_pods(node_pods([object(1), object(2)]));
    assert_eq!(
        settle(&mut registry),
        [skipping(0), PodWrite::SkipRemoved { pod: 1 }, PodWrite::SkipRemoved { pod: 2 }]
    );
}

#[test]
fn a_write_that_failed_is_planned_again() {
    let mut registry = Registry::default();
    registry.observe_cgroups(cgroups(&[1]));
    registry.observe_pods(node_pods([PodObject { wishes: OUT, ..object(1) }]));
    let first = registry.plan();
    registry.landed(first[0]);
    assert_eq!(registry.plan(), first[1..]);
}

#[test]
fn without_kubepods_clients_are_told_by_their_own_cgroups() {
    let mut registry = Registry::adopt(HIERARCHY, BTreeMap::new());
    registry.observe_cgroups(NodeCgroups::default());
    assert_eq!(settle(&mut registry), [PodWrite::Hierarchy(Hierarchy::default())]);
}

#[test]
fn a_pod_has_its_own_wishes_and_those_of_its_namespace() {
    let mut registry = Registry::default();
    registry.observe_cgroups(cgroups(&[1, 2, 3]));
    let off = Wishes { opted_out: false, http2_off: true };
    let mut pods = node_pods([PodObject { wishes: off, ..object(1) }, object(2), object(3)]);
    pods.namespaces.insert("even".into(), off);
    registry.observe_pods(pods);
    let known: Vec<_> = registry.pods().map(|pod| (pod.skip, pod.wishes.http2_off)).collect();
    assert_eq!(known, [(None, true), (None, true), (None, false)]);
}
