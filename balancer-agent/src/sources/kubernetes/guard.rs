//! An object that may be unreadable. One such object in a list of thousands must not make the whole
//! list unreadable, as it would with kube's typed lists.
//!
//! It arrives as its text. That is read once, by whoever knows what of it is of use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, value::RawValue};
use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

/// The text of an object, and what of its metadata is of use.
#[derive(Clone, Debug)]
pub(super) struct Guarded<K> {
    metadata: ObjectMeta,
    text: Box<RawValue>,
    kind: PhantomData<fn() -> K>,
}

/// What is read of objects that are as they should be.
#[derive(Deserialize)]
struct Head {
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

// === impl Guarded ===

impl<K> Guarded<K> {
    /// The object, or why it is none of its kind.
    pub(super) fn read<'t, T: Deserialize<'t>>(&'t self) -> Result<T, String> {
        serde_json::from_str(self.text.get()).map_err(|error| error.to_string())
    }
}

impl<'de, K> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self { metadata: metadata(text.get()), text, kind: PhantomData })
    }
}

/// What tells which object it is, and what is said about it, as far as that can be read.
fn metadata(text: &str) -> ObjectMeta {
    if let Ok(Head { metadata: Some(it) }) = serde_json::from_str(text) {
        let Metadata { name, namespace, uid, resource_version, labels, annotations } = it;
        let others = ObjectMeta::default();
        return ObjectMeta {
            name,
            namespace,
            uid,
            resource_version,
            labels,
            annotations,
            ..others
        };
    }
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let value = &value["metadata"];
    let string = |key: &str| value[key].as_str().map(str::to_owned);
    let strings = |key: &str| {
        let pairs = value[key].as_object()?.iter();
        let pairs =
            pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        Some(pairs.collect())
    };
    ObjectMeta {
        name: string("name"),
        namespace: string("namespace"),
        uid: string("uid"),
        resource_version: string("resourceVersion"),
        labels: strings("labels"),
        annotations: strings("annotations"),
        ..ObjectMeta::default()
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    fn guarded(object: &Value) -> Guarded<Node> {
        serde_json::from_str(&object.to_string()).unwrap()
    }

    #[test]
    fn whatever_json_it_is_it_is_taken() {
        for object in [json!(null), json!(7), json!([]), json!({}), json!({"metadata": [1]})] {
            let guarded = guarded(&object);
            assert_eq!(*guarded.meta(), ObjectMeta::default(), "{object}");
        }
    }

    #[test]
    fn metadata_count_as_far_as_they_can_be_read() {
        let mut object = json!({"metadata": {
            "name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "7",
            "labels": {"k": "v"}, "annotations": {"a": "b"}, "managedFields": [{"fieldsV1": 7}],
        }});
        let good = guarded(&object);
        assert_eq!(good.meta().labels.as_ref().unwrap()["k"], "v");
        assert_eq!(good.meta().annotations.as_ref().unwrap()["a"], "b");
        assert_eq!(good.meta().resource_version.as_deref(), Some("7"));
        object["metadata"]["labels"]["n"] = json!(1);
        object["metadata"]["uid"] = json!(1);
        let bad = guarded(&object);
        let expected = ObjectMeta { uid: None, ..good.meta().clone() };
        assert_eq!(*bad.meta(), expected);
    }

    #[test]
    fn what_is_none_of_its_kind_says_so() {
        let node = guarded(&json!({"metadata": {"name": "a"}, "spec": 7}));
        let error = node.read::<Node>().unwrap_err();
        assert!(error.contains("invalid type: integer `7`"), "{error}");
        assert_eq!(node.meta().name.as_deref(), Some("a"));
    }
}
