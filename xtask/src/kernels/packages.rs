//! Kernels from Debian's archive, kept in a cache; the system's apt state is left alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Kernel, debian};
use crate::process;

/// A kernel that can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// The bzImage.
    pub(super) path: PathBuf,
    /// The kernel's own version.
    pub(super) version: String,
}

/// The kept image of `kernel`, or a new one from the archive.
///
/// The archive prunes old versions: what was kept stays usable, and a new one is picked by what
/// the archive has today.
pub(super) fn image(kernel: &Kernel, cache: &Path, refresh: bool) -> Result<Image> {
    let directory = cache.join(kernel.name);
    let kept = newest_image(&directory, kernel);
    if let (Some(image), false) = (&kept, refresh) {
        return Ok(image.clone());
    }
    let fetched = fetch(kernel, &directory);
    match (fetched, kept) {
        (Ok(()), _) => newest_image(&directory, kernel)
            .with_context(|| format!("the package of kernel {} holds no vmlinuz", kernel.name)),
        (Err(error), Some(image)) => {
            process::say(format!("using the kept kernel {}: {error:#}", image.version));
            Ok(image)
        }
        (Err(error), None) => Err(error),
    }
}

fn newest_image(directory: &Path, kernel: &Kernel) -> Option<Image> {
    let entries = directory.read_dir().ok()?.filter_map(Result::ok);
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("vmlinuz-")?.to_owned();
            let fits = version.starts_with(kernel.version_prefix);
            fits.then(|| Image { path: entry.path(), version })
        })
        .max_by_key(|image| version_key(&image.version))
}

/// The modules that the guest of `kernel` loads: out of its package, which is kept beside the image.
pub(super) fn modules(kernel: &Kernel, image: &Image, cache: &Path) -> Result<Vec<PathBuf>> {
    let directory = cache.join(kernel.name);
    let kept = directory.join(format!("modules-{}", image.version));
    let place = |module: &&str| kept.join(Path::new(module).file_name().unwrap_or_default());
    let places: Vec<PathBuf> = kernel.modules.iter().map(place).collect();
    if places.iter().all(|place| place.exists()) {
        return Ok(places);
    }
    let package = package_of(&directory, &image.version)?;
    let unpacked = directory.join("unpacked");
    process::output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
    fs::create_dir_all(&kept).with_context(|| format!("create {}", kept.display()))?;
    for (module, place) in kernel.modules.iter().zip(&places) {
        let from = unpacked.join("lib/modules").join(&image.version).join("kernel").join(module);
        fs::copy(&from, place).with_context(|| format!("copy {}", from.display()))?;
    }
    fs::remove_dir_all(&unpacked).context("remove the unpacked package")?;
    Ok(places)
}

/// The kept package of this version.
fn package_of(directory: &Path, version: &str) -> Result<PathBuf> {
    let apt = directory.join("apt");
    let suites = apt.read_dir().with_context(|| format!("read {}", apt.display()))?;
    let is_package = |name: &str| Path::new(name).extension().is_some_and(|it| it == "deb");
    let is_meant = |name: &str| name.contains(&format!("-{version}_")) && is_package(name);
    suites
        .filter_map(Result::ok)
        .find_map(|suite| find_file(&suite.path().join("archives"), is_meant).ok())
        .with_context(|| {
            format!(
                "the package of kernel {version} is not kept\nhint: `cargo xtask test-kernels --refresh` fetches it"
            )
        })
}

fn fetch(kernel: &Kernel, directory: &Path) -> Result<()> {
    let sources = debian::sources(Path::new("/etc/apt"));
    let mut failures = Vec::new();
    for suite in kernel.suites {
        let attempt = debian::line_for(suite, &sources)
            .and_then(|line| Apt::new(directory, suite, &line)?.fetch_kernel(kernel, directory));
        match attempt {
            Ok(()) => return Ok(()),
            Err(error) => failures.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("no suite of Debian offers it ({})", failures.join("; "))
}

/// apt with state, cache and sources of its own.
struct Apt {
    state: PathBuf,
    list: PathBuf,
}

impl Apt {
    fn new(directory: &Path, suite: &str, line: &str) -> Result<Self> {
        let state = directory.join("apt").join(suite);
        for part in ["lists/partial", "archives/partial"] {
            let part = state.join(part);
            fs::create_dir_all(&part).with_context(|| format!("create {}", part.display()))?;
        }
        let list = state.join("sources.list");
        fs::write(&list, line).with_context(|| format!("write {}", list.display()))?;
        fs::write(state.join("status"), "").context("write an empty package state")?;
        Ok(Self { state, list })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let settings = [
            ("Dir::Etc::SourceList", self.list.clone()),
            ("Dir::Etc::SourceParts", "/dev/null".into()),
            ("Dir::State", self.state.clone()),
            ("Dir::State::Lists", self.state.join("lists")),
            ("Dir::State::status", self.state.join("status")),
            ("Dir::Cache", self.state.clone()),
            ("APT::Sandbox::User", "root".into()),
            ("Acquire::Languages", "none".into()),
        ];
        for (name, value) in settings {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        }
        command
    }

    fn fetch_kernel(&self, kernel: &Kernel, directory: &Path) -> Result<()> {
        process::say(format!("kernel {}: reading the package lists", kernel.name));
        process::output(self.command("apt-get").args(["-q", "update"]))?;
        let names = process::output(self.command("apt-cache").args(["pkgnames", "linux-"]))?;
        let package = newest_package(&names, kernel.version_prefix).with_context(|| {
            format!("it has no cloud kernel whose version starts with {}", kernel.version_prefix)
        })?;
        process::say(format!("kernel {}: fetching {package}", kernel.name));
        let archives = self.state.join("archives");
        // An older package of the same name would be taken for the new one.
        fs::remove_dir_all(&archives).context("remove the packages kept before")?;
        fs::create_dir_all(&archives).context("make room for the package")?;
        process::output(
            self.command("apt-get").current_dir(&archives).args(["-q", "download", package]),
        )?;
        let deb = find_file(&archives, |name| {
            name.strip_prefix(package).is_some_and(|rest| rest.starts_with('_'))
        })?;
        let unpacked = self.state.join("unpacked");
        process::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
        keep_image(&unpacked, kernel, directory)?;
        // The modules are many times larger than the image, and nothing loads them.
        fs::remove_dir_all(&unpacked).context("remove the unpacked package")?;
        fs::remove_dir_all(self.state.join("lists")).context("remove the package lists")
    }
}

/// Copies the image from an unpacked package: `boot/vmlinuz-VERSION`, or in a `linux-binary`
/// package `usr/lib/modules/VERSION/vmlinuz`.
fn keep_image(unpacked: &Path, kernel: &Kernel, directory: &Path) -> Result<()> {
    let fits = |version: &str| version.starts_with(kernel.version_prefix);
    let in_boot =
        find_file(&unpacked.join("boot"), |name| name.strip_prefix("vmlinuz-").is_some_and(fits));
    let image = in_boot.or_else(|_| {
        let modules = find_file(&unpacked.join("usr/lib/modules"), fits)?;
        anyhow::Ok(modules.join("vmlinuz"))
    })?;
    let version = match image.file_name().and_then(|name| name.to_str()) {
        Some("vmlinuz") => image.parent().and_then(Path::file_name),
        _ => image.file_name(),
    };
    let version = version.and_then(|name| name.to_str()).unwrap_or_default();
    let name = format!("vmlinuz-{}", version.trim_start_matches("vmlinuz-"));
    fs::copy(&image, directory.join(name)).with_context(|| format!("keep {}", image.display()))?;
    Ok(())
}

fn find_file(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = directory.read_dir().with_context(|| format!("read {}", directory.display()))?;
    entries
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .with_context(|| format!("{} lacks the file that was to be there", directory.display()))
}

/// The package with the newest cloud kernel whose version starts with `prefix`.
///
/// Debian calls the signed image `linux-image-VERSION-cloud-amd64`; from 6.19 on that is a
/// metapackage, and the image is in `linux-binary-VERSION-cloud-amd64`.
fn newest_package<'names>(names: &'names str, prefix: &str) -> Option<&'names str> {
    let version = |name: &'names str| {
        let of_binary = name.strip_prefix("linux-binary-");
        let rest = of_binary.or_else(|| name.strip_prefix("linux-image-"))?;
        let version = rest.strip_suffix("-cloud-amd64")?;
        let complete = version.starts_with(prefix) && !version.contains("rc");
        complete.then(|| (version_key(version), of_binary.is_some()))
    };
    names.lines().filter_map(|name| Some((version(name)?, name))).max().map(|(_, name)| name)
}

/// The numbers in a version: enough to order versions of one kind.
fn version_key(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_cloud_kernel_is_picked() {
        let names = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-37-cloud-amd64\n\
            linux-image-6.1.0-37-cloud-amd64-dbg\nlinux-image-6.1.0-38-amd64\n\
            linux-image-6.12.1-cloud-amd64\nlinux-headers-6.1.0-40-cloud-amd64\n\
            linux-image-cloud-amd64\n";
        assert_eq!(newest_package(names, "6.1."), Some("linux-image-6.1.0-37-cloud-amd64"));
        assert_eq!(newest_package(names, "5.10."), None);
    }

    #[test]
    fn the_package_with_the_image_wins_over_the_metapackage() {
        let names = "linux-image-7.0.4+deb14-cloud-amd64\nlinux-binary-7.0.4+deb14-cloud-amd64\n\
            linux-binary-7.1~rc2-cloud-amd64\n";
        assert_eq!(newest_package(names, "7."), Some("linux-binary-7.0.4+deb14-cloud-amd64"));
    }
}
