//! What the kernel's maps hold of pods: where they are, which are skipped, what is remembered of each.

use super::{
    maps::{Hash, Maps},
    raw::Raw,
    writer::absent_is_fine,
};
use crate::core::pods::registry::PodWrite;
use aya::maps::MapError;
use balancer_common::{
    address::FAMILY_V4,
    hierarchy::Hierarchy,
    pod::{PodServiceKey, Skip},
};
use std::collections::{BTreeMap, BTreeSet};

/// A write about pods that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("write {subject} to the kernel's maps: {cause}")]
pub struct PodWriteError {
    subject: String,
    cause: MapError,
}

impl Maps {
    /// Where pods are, as the kernel has it.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read_hierarchy(&self) -> Result<Hierarchy, MapError> {
        Ok(self.hierarchy.get(&0, 0)?.0)
    }

    /// The pods that are skipped, by cgroup id.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn read_skips(&self) -> Result<BTreeMap<u64, Skip>, MapError> {
        self.skipped_pods.iter().map(|entry| entry.map(|(pod, skip)| (pod.0, skip.0))).collect()
    }

    /// Applies one write about pods.
    ///
    /// # Errors
    /// [`PodWriteError`] names what was written, and what the kernel said (a full map, for example).
    pub fn write_pod(&mut self, write: PodWrite) -> Result<(), PodWriteError> {
        let result = match write {
            PodWrite::Hierarchy(hierarchy) => self.hierarchy.set(0, Raw(hierarchy), 0),
            PodWrite::Skip { pod, skip } => self.skipped_pods.insert(Raw(pod), Raw(skip), 0),
            PodWrite::SkipRemoved { pod } => absent_is_fine(self.skipped_pods.remove(&Raw(pod))),
        };
        result.map_err(|cause| PodWriteError { subject: subject(write), cause })
    }

    /// Sets a pod's cursor to where the schedule in force has a backend, so that its next connection to the
    /// service goes there if the policy follows cursors. Tells whether there is such a place.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn steer(
        &mut self,
        pod: u64,
        service: u32,
        family: u16,
        backend: u32,
    ) -> Result<bool, MapError> {
        let record = self.services.get(&service, 0)?.0;
        let bank = record.bank();
        let schedule = if family == FAMILY_V4 { bank.v4 } else { bank.v6 };
        let slots = self.read_schedule(schedule)?;
        let Some(slot) = slots.iter().position(|id| *id == backend) else { return Ok(false) };
        let key = PodServiceKey { pod, service, reserved: 0 };
        self.pod_cursors.insert(Raw(key), Raw(slot as u64), 0)?;
        Ok(true)
    }

    /// Frees what is remembered of pods that have gone; returns how many entries that were.
    ///
    /// # Errors
    /// Whatever aya or the kernel says.
    pub fn forget_pods(&mut self, pods: &BTreeSet<u64>) -> Result<usize, MapError> {
        Ok(forget(&mut self.pod_cursors, pods)? + forget(&mut self.affinities, pods)?)
    }
}

fn forget<V: bytemuck::Pod>(
    map: &mut Hash<PodServiceKey, V>,
    pods: &BTreeSet<u64>,
) -> Result<usize, MapError> {
    // Collected first: a walk starts over when the entry that it stands on is removed.
    let keys: Result<Vec<_>, _> = map.keys().collect();
    let mut forgotten = 0;
    for key in keys?.into_iter().filter(|key| pods.contains(&key.0.pod)) {
        absent_is_fine(map.remove(&key))?;
        forgotten += 1;
    }
    Ok(forgotten)
}

fn subject(write: PodWrite) -> String {
    match write {
        PodWrite::Hierarchy(_) => "where pods are".into(),
        PodWrite::Skip { pod, .. } => format!("that the pod with cgroup {pod} is skipped"),
        PodWrite::SkipRemoved { pod } => format!("that the pod with cgroup {pod} is not skipped"),
    }
}
