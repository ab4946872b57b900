//! An image as an OCI archive (OCI image layout, version 1.0.0), written with `tar` and `sha256sum`,
//! so that no container engine is needed. The same files make the same archive.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::AGENT;
use crate::process;

/// Where the shell-less image looks for programs, so that `kubectl exec … -- balancer-agent` works.
pub(super) const PATH_VARIABLE: &str = "PATH=/usr/local/bin";

/// A blob: its digest and its size in bytes.
struct Blob {
    digest: String,
    bytes: u64,
}

/// Writes the image of `root` to `archive`, by way of a layout in `directory`.
pub(super) fn write(root: &Path, directory: &Path, archive: &Path, tag: &str) -> Result<()> {
    let layout = directory.join("layout");
    if layout.exists() {
        fs::remove_dir_all(&layout).with_context(|| format!("remove {}", layout.display()))?;
    }
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
    let layer_file = directory.join("layer.tar");
    tar(root, &layer_file)?;
    let layer = add_file(&blobs, &layer_file)?;
    let config = add_json(&blobs, &config(&layer))?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = add_json(&blobs, &manifest)?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": tag,
        // What `ctr image import` and `docker load` name it by.
        "io.containerd.image.name": tag,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    write_json(&layout.join("index.json"), &index)?;
    write_json(&layout.join("oci-layout"), &json!({ "imageLayoutVersion": "1.0.0" }))?;
    tar(&layout, archive)
}

/// How the image runs. A layer that is not compressed has its own digest as its content's.
fn config(layer: &Blob) -> Value {
    let architecture = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Env": [PATH_VARIABLE], "Entrypoint": [format!("/{AGENT}")] },
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
    })
}

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.bytes })
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, value.to_string()).with_context(|| format!("write {}", path.display()))
}

fn add_json(blobs: &Path, value: &Value) -> Result<Blob> {
    let draft = blobs.join("draft");
    write_json(&draft, value)?;
    add_file(blobs, &draft)
}

/// Moves a file to where its digest says.
fn add_file(blobs: &Path, file: &PathBuf) -> Result<Blob> {
    let bytes = file.metadata().with_context(|| format!("look at {}", file.display()))?.len();
    let sum = process::output(Command::new("sha256sum").arg("--").arg(file))?;
    let sum = sum.split_whitespace().next().context("sha256sum printed nothing")?.to_owned();
    fs::rename(file, blobs.join(&sum)).with_context(|| format!("move {}", file.display()))?;
    Ok(Blob { digest: format!("sha256:{sum}"), bytes })
}

/// Archives what is in a directory, without a trace of when and by whom.
fn tar(directory: &Path, archive: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command
        .args(["--create", "--format=gnu", "--sort=name", "--mtime=@0", "--numeric-owner"])
        .args(["--owner=0", "--group=0", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(directory)
        .arg(".");
    process::output(&mut command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_json(path: &Path) -> Value {
        serde_json::from_str(&fs::read_to_string(path).expect("readable")).expect("JSON")
    }

    /// The blob that a descriptor names, after a look at its size.
    fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
        let digest = descriptor["digest"].as_str().expect("a digest");
        let path = layout.join("blobs").join(digest.replace(':', "/"));
        let bytes = path.metadata().expect("the blob is there").len();
        assert_eq!(descriptor["size"], bytes, "{digest}");
        path
    }

    #[test]
    fn an_archive_leads_from_its_index_to_the_agent() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().join("root");
        let agent = root.join(AGENT);
        fs::create_dir_all(agent.parent().expect("a directory")).expect("writable");
        fs::write(&agent, b"the agent").expect("writable");
        let archive = directory.path().join("image.tar");
        write(&root, directory.path(), &archive, "x/y:1").expect("written");

        let layout = directory.path().join("unpacked");
        fs::create_dir(&layout).expect("writable");
        let unpack = |archive: &Path, to: &Path| {
            let mut tar = Command::new("tar");
            process::run(tar.arg("-xf").arg(archive).arg("-C").arg(to)).expect("unpacked");
        };
        unpack(&archive, &layout);
        let index = read_json(&layout.join("index.json"));
        let entry = &index["manifests"][0];
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "x/y:1");
        let manifest = read_json(&blob(&layout, entry));
        let config = read_json(&blob(&layout, &manifest["config"]));
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/local/bin/balancer-agent");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let files = directory.path().join("files");
        fs::create_dir(&files).expect("writable");
        unpack(&blob(&layout, &manifest["layers"][0]), &files);
        assert_eq!(fs::read(files.join(AGENT)).expect("there"), b"the agent");
    }

    #[test]
    fn the_same_files_make_the_same_archive() {
        let archives = [1, 2].map(|_| {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let root = directory.path().join("root");
            fs::create_dir_all(root.join("usr")).expect("writable");
            fs::write(root.join("usr/file"), b"same").expect("writable");
            let archive = directory.path().join("image.tar");
            write(&root, directory.path(), &archive, "x:1").expect("written");
            fs::read(archive).expect("readable")
        });
        assert_eq!(archives[0], archives[1]);
    }
}
