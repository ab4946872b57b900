//! What was refused of Kubernetes objects, for people.

use super::object::{Fault, ObjectKey};
use std::{fmt, sync::Arc};

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
