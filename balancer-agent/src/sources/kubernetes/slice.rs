//! What of an EndpointSlice is of use, borrowed from its text: a large cluster changes hundreds of
//! them a second, and most of what they say is dropped.

use serde::Deserialize;
use std::{borrow::Cow, ops::Deref};

/// Text of JSON, which is borrowed unless it has escapes.
#[derive(Debug, Deserialize)]
pub(super) struct Text<'t>(#[serde(borrow)] Cow<'t, str>);

/// `discovery.k8s.io/v1` EndpointSlice. Go writes lists that are empty as `null`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Slice<'t> {
    #[serde(borrow)]
    pub(super) address_type: Option<Text<'t>>,
    #[serde(borrow)]
    pub(super) ports: Option<Vec<Port<'t>>>,
    #[serde(borrow)]
    pub(super) endpoints: Option<Vec<Endpoint<'t>>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Port<'t> {
    #[serde(borrow)]
    pub(super) name: Option<Text<'t>>,
    #[serde(borrow)]
    pub(super) protocol: Option<Text<'t>>,
    #[serde(rename = "port")]
    pub(super) number: Option<i32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint<'t> {
    #[serde(borrow)]
    pub(super) addresses: Option<Vec<Text<'t>>>,
    pub(super) conditions: Option<Conditions>,
    #[serde(borrow)]
    pub(super) node_name: Option<Text<'t>>,
    #[serde(borrow)]
    pub(super) target_ref: Option<Target<'t>>,
    #[serde(borrow)]
    pub(super) hints: Option<Hints<'t>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

/// What an endpoint is.
#[derive(Debug, Deserialize)]
pub(super) struct Target<'t> {
    #[serde(borrow)]
    pub(super) kind: Option<Text<'t>>,
    #[serde(borrow)]
    pub(super) uid: Option<Text<'t>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hints<'t> {
    #[serde(borrow)]
    pub(super) for_zones: Option<Vec<Named<'t>>>,
    #[serde(borrow)]
    pub(super) for_nodes: Option<Vec<Named<'t>>>,
}

/// A zone or a node.
#[derive(Debug, Deserialize)]
pub(super) struct Named<'t> {
    #[serde(borrow)]
    pub(super) name: Text<'t>,
}

// === impl Text ===

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_null_or_escaped_is_read_all_the_same() {
        for text in [
            "{}",
            r#"{"addressType": null, "ports": null, "endpoints": null, "kind": 7}"#,
            r#"{"endpoints": []}"#,
        ] {
            let slice: Slice<'_> = serde_json::from_str(text).unwrap();
            assert!(slice.address_type.is_none() && slice.ports.is_none(), "{text}");
            assert!(slice.endpoints.is_none_or(|endpoints| endpoints.is_empty()), "{text}");
        }
        let text = r#"{"addressType": "IPv\u0034", "endpoints": [{"nodeName": "n"}]}"#;
        let slice: Slice<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(slice.address_type.as_deref(), Some("IPv4"));
        let endpoints = slice.endpoints.unwrap();
        let node = endpoints[0].node_name.as_ref().unwrap();
        assert!(matches!(node, Text(Cow::Borrowed("n"))));
    }
}
