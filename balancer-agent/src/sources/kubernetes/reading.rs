//! From an object's text to what discovery is told of it. It stands apart from the watches so that fuzzers
//! run the very code that reads what an API server sends.

use super::{convert, guard::Guarded, intern::Interner};
use crate::core::discovery::{Observed, ServiceObject, SliceObject};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::Resource;

/// A Service from its JSON.
///
/// # Errors
/// When it is no JSON at all: what watches bring always is.
pub fn service_of_json(json: &[u8]) -> Result<Observed<ServiceObject>, serde_json::Error> {
    serde_json::from_slice(json).map(|guarded| service(&guarded))
}

/// An EndpointSlice from its JSON; `None` if it belongs to no Service.
///
/// # Errors
/// When it is no JSON at all: what watches bring always is.
pub fn slice_of_json(json: &[u8]) -> Result<Option<Observed<SliceObject>>, serde_json::Error> {
    serde_json::from_slice(json).map(|guarded| slice(&guarded, &mut Interner::default()))
}

pub(super) fn service(guarded: &Guarded<Service>) -> Observed<ServiceObject> {
    match guarded.read() {
        Ok(service) => Observed {
            version: convert::version(guarded.meta()),
            object: convert::service(&service),
        },
        Err(error) => unreadable(guarded, &error),
    }
}

pub(super) fn slice(
    guarded: &Guarded<EndpointSlice>,
    interner: &mut Interner,
) -> Option<Observed<SliceObject>> {
    match guarded.read() {
        Ok(slice) => convert::slice(guarded.meta(), &slice, interner)
            .transpose()
            .map(|object| Observed { version: convert::version(guarded.meta()), object }),
        Err(error) => Some(unreadable(guarded, &error)),
    }
}

fn unreadable<K: Resource, T>(object: &K, error: &str) -> Observed<T> {
    let cause = format!("it cannot be read: {}", convert::excerpt(error));
    let fix = "apply the object anew";
    let metadata = object.meta();
    let malformed = convert::malformed(metadata, "object", cause, fix);
    Observed { version: convert::version(metadata), object: Err(malformed) }
}
