//! What `kubectl apply -k` sends: the part of kustomize that `deploy/` uses, and not a word more.
//!
//! A key or a patch that this does not know is refused, so that what is tested is what users get.

use anyhow::{Context, bail, ensure};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{Scope, pinned_kind},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fs, path::Path};

/// The file that makes a directory a kustomization.
const KUSTOMIZATION: &str = "kustomization.yaml";
/// Who applies manifests, as the API server notes it.
const MANAGER: &str = "balancer-tests";
/// Lists whose items are told apart by their names; no patch in `deploy/` touches other lists of objects.
const NAMED_LISTS: [&str; 3] = ["containers", "initContainers", "volumes"];

/// Whether the API server keeps what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does everything but that: authorisation, admission, validation (`dryRun=All`).
    DryRun,
    /// It does.
    Real,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    namespace: Option<String>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    patches: Vec<PatchFile>,
    #[serde(default)]
    config_map_generator: Vec<Generator>,
    #[serde(default)]
    generator_options: GeneratorOptions,
    #[serde(default)]
    labels: Vec<Labels>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatchFile {
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Generator {
    name: String,
    files: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GeneratorOptions {
    disable_name_suffix_hash: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    pairs: BTreeMap<String, String>,
}

/// The objects of a base or an overlay, in the order of its lists.
///
/// # Errors
/// Names the file that is missing or not understood.
pub fn render(directory: &Path) -> anyhow::Result<Vec<Value>> {
    let own: Kustomization = read(&directory.join(KUSTOMIZATION))?;
    let mut objects = Vec::new();
    for resource in &own.resources {
        let path = directory.join(resource);
        if path.is_dir() {
            objects.extend(render(&path)?);
        } else {
            objects.push(read(&path)?);
        }
    }
    for generator in &own.config_map_generator {
        ensure!(own.generator_options.disable_name_suffix_hash, "names with a hash are not made");
        objects.push(config_map(directory, generator)?);
    }
    for patch in &own.patches {
        let path = directory.join(&patch.path);
        apply_patch(&mut objects, read(&path)?)
            .with_context(|| format!("patch by {}", path.display()))?;
    }
    for object in &mut objects {
        if let Some(namespace) = &own.namespace {
            set_namespace(object, namespace)?;
        }
        for (key, value) in own.labels.iter().flat_map(|labels| &labels.pairs) {
            object["metadata"]["labels"][key] = json!(value);
        }
    }
    Ok(objects)
}

/// What an object is called in messages.
pub fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// Applies an object on the server's side, with every unknown or repeated field an error.
///
/// # Errors
/// Names the object, with the API's own words.
pub async fn apply(client: &Client, object: &Value, mode: Mode) -> anyhow::Result<()> {
    let name = name(object);
    let object: DynamicObject =
        serde_json::from_value(object.clone()).with_context(|| format!("read {name}"))?;
    let kind = object.types.as_ref().and_then(|types| GroupVersionKind::try_from(types).ok());
    let kind = kind.with_context(|| format!("{name} does not say what it is"))?;
    let (resource, capabilities) = pinned_kind(client, &kind)
        .await
        .with_context(|| format!("{name}: the API has no {}/{}", kind.api_version(), kind.kind))?;
    let api = api(client, &resource, &capabilities.scope, object.metadata.namespace.as_deref())
        .with_context(|| name.clone())?;
    let mut parameters = PatchParams::apply(MANAGER).validation_strict();
    parameters.dry_run = mode == Mode::DryRun;
    let own_name = object.metadata.name.clone().unwrap_or_default();
    match api.patch(&own_name, &parameters, &Patch::Apply(&object)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => {
            bail!("{name} is refused: {} ({} {})", status.message, status.code, status.reason)
        }
        Err(error) => Err(error).with_context(|| format!("apply {name}")),
    }
}

fn api(
    client: &Client,
    resource: &ApiResource,
    scope: &Scope,
    namespace: Option<&str>,
) -> anyhow::Result<Api<DynamicObject>> {
    match (scope, namespace) {
        (Scope::Cluster, None) => Ok(Api::all_with(client.clone(), resource)),
        (Scope::Namespaced, Some(it)) => Ok(Api::namespaced_with(client.clone(), it, resource)),
        (Scope::Cluster, Some(it)) => bail!("it is of no namespace, but names {it}"),
        (Scope::Namespaced, None) => bail!("it names no namespace"),
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

fn config_map(directory: &Path, generator: &Generator) -> anyhow::Result<Value> {
    let mut data = Map::new();
    for file in &generator.files {
        let path = directory.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        data.insert(file.clone(), text.into());
    }
    Ok(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": generator.name}, "data": data,
    }))
}

/// What has a namespace is put into it; what has none is told by its kind.
fn set_namespace(object: &mut Value, namespace: &str) -> anyhow::Result<()> {
    match object["kind"].as_str().unwrap_or_default() {
        "Namespace" => {
            // kustomize renames it.
            ensure!(object["metadata"]["name"] == namespace, "a Namespace of another name");
        }
        kind if kind.starts_with("Cluster") => {}
        _ => object["metadata"]["namespace"] = json!(namespace),
    }
    Ok(())
}

/// Merges a patch into the one object that it names.
fn apply_patch(objects: &mut [Value], mut patch: Value) -> anyhow::Result<()> {
    let wanted = name(&patch);
    let target = objects.iter_mut().find(|object| name(object) == wanted);
    let target = target.with_context(|| format!("there is no {wanted}"))?;
    ensure!(target["apiVersion"] == patch["apiVersion"], "{wanted} is of another version");
    patch["metadata"] = json!({});
    merge(target, patch, "")
}

/// A strategic merge: maps by their keys, lists of named objects by name, all else replaced.
fn merge(into: &mut Value, patch: Value, key: &str) -> anyhow::Result<()> {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                ensure!(!key.starts_with('$') && !value.is_null(), "directives are not known");
                merge(into.entry(&key).or_insert(Value::Null), value, &key)?;
            }
        }
        (Value::Array(into), Value::Array(patch)) => {
            ensure!(NAMED_LISTS.contains(&key), "how lists of `{key}` are merged is not known");
            for item in patch {
                let old = into.iter_mut().find(|old| old["name"] == item["name"]);
                match old {
                    Some(old) => merge(old, item, key)?,
                    None => into.push(item),
                }
            }
        }
        (into, patch) => *into = patch,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_change_what_they_name_and_nothing_else() {
        let set = |spec: Value| json!({"apiVersion": "v1", "kind": "Set", "metadata": {"name": "a"}, "spec": spec});
        let mut objects = vec![set(json!({
            "containers": [{"name": "x", "image": "one", "env": ["old"]}, {"name": "y"}],
        }))];
        let patch = set(json!({
            "containers": [{"name": "x", "security": {"mode": "off"}}], "affinity": [{"a": 1}],
        }));
        apply_patch(&mut objects, patch).unwrap();
        let expected = set(json!({
            "containers": [
                {"name": "x", "image": "one", "env": ["old"], "security": {"mode": "off"}},
                {"name": "y"},
            ],
            "affinity": [{"a": 1}],
        }));
        assert_eq!(objects, [expected]);

        for (patch, complaint) in [
            (json!({"kind": "Other", "metadata": {"name": "a"}}), "no Other a"),
            (set(json!({"containers": [{"name": "x", "env": ["new"]}]})), "lists of `env`"),
            (set(json!({"containers": null})), "directives"),
        ] {
            let error = format!("{:#}", apply_patch(&mut objects, patch).unwrap_err());
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn unknown_keys_of_a_kustomization_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(KUSTOMIZATION);
        let head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n";
        fs::write(&path, format!("{head}namePrefix: a-\n")).unwrap();
        let error = format!("{:#}", render(directory.path()).unwrap_err());
        assert!(error.contains("namePrefix"), "{error}");
        fs::write(&path, head).unwrap();
        assert_eq!(render(directory.path()).unwrap(), Vec::<Value>::new());
    }
}
