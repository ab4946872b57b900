//! What was refused of Kubernetes objects, for people.

use super::{
    ANNOTATION_PREFIX, Discovery, SERVICES, SLICES,
    object::{Fault, ObjectKey, ServiceObject},
};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// Why a part of an object does not count. The text names thing, cause, fix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectProblem {
    /// The Service that suffers.
    pub service: ObjectKey,
    /// Its `metadata.uid`; empty if there is no such Service.
    pub uid: Arc<str>,
    /// The EndpointSlice that is at fault; the Service itself if there is none.
    pub slice: Option<ObjectKey>,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for ObjectProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { field, cause, fix } = &self.fault;
        match &self.slice {
            Some(slice) => write!(f, "EndpointSlice {slice} of Service {}", self.service)?,
            None => write!(f, "Service {}", self.service)?,
        }
        write!(f, ": {field}: {cause}; {fix}")
    }
}

// === impl Discovery ===

impl Discovery {
    /// Everything that was refused of a Service. Of one that is not balanced, only our annotations
    /// matter.
    pub(super) fn problems_of(&self, key: &ObjectKey, joined: &[Fault]) -> BTreeSet<ObjectProblem> {
        let service = self.services.get(key);
        let uid = service.map_or_else(|| "".into(), |service| service.uid.clone());
        let balanced = service.is_some_and(ServiceObject::is_balanced);
        let problem = |slice: Option<&ObjectKey>, fault: &Fault| ObjectProblem {
            service: key.clone(),
            uid: uid.clone(),
            slice: slice.cloned(),
            fault: fault.clone(),
        };
        let mut problems = BTreeSet::new();
        let own = service.into_iter().flat_map(|service| &service.faults);
        let own = own.filter(|fault| balanced || fault.field.contains(ANNOTATION_PREFIX));
        problems.extend(own.chain(joined).map(|fault| problem(None, fault)));
        if let Some(malformed) = self.malformed[SERVICES].get(key) {
            problems.insert(problem(None, &malformed.fault));
        }
        if balanced {
            let names = self.slices_of.get(key).into_iter().flatten();
            for slice in names.filter_map(|name| self.slices.get(name)) {
                problems.extend(slice.faults.iter().map(|it| problem(Some(&slice.key), it)));
            }
            for malformed in self.malformed[SLICES].values() {
                if malformed.service.as_ref() == Some(key) {
                    problems.insert(problem(Some(&malformed.key), &malformed.fault));
                }
            }
        }
        problems
    }
}
