//! The guests' file system: busybox, an init script and the program under test, as a cpio archive.
//!
//! Written here rather than by cpio(1), which would need root to make the console's device node.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// Runs as process 1. Each line that a host reads starts with a word of its own.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
# It finds itself through /proc/self/exe.
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
for module in /modules/*.ko; do
    if [ -e "$module" ]; then insmod "$module"; fi
done
echo "BOOTED $(uname -r)"
/bin/program
echo "EXIT $?"
poweroff -f
"#;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writes the archive to `path`, with `program` as the program under test, and modules that are loaded before it.
pub(super) fn write(path: &Path, program: &Path, modules: &[PathBuf]) -> Result<()> {
    let busybox = process::find_in_path("busybox").context("busybox is not in PATH")?;
    let busybox = static_program(&busybox).context(
        "the guests need a busybox without shared libraries\nhint: sudo apt-get install -y busybox-static",
    )?;
    let program = static_program(program)?;
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "tmp", "run", "etc", "modules"] {
        archive.add(directory, DIRECTORY, (0, 0), &[]);
    }
    // The kernel opens it for process 1 before devtmpfs is mounted.
    archive.add("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    archive.add("bin/busybox", EXECUTABLE, (0, 0), &busybox);
    archive.add("bin/program", EXECUTABLE, (0, 0), &program);
    for module in modules {
        let name = module.file_name().context("a module has a name")?.to_string_lossy();
        let content = fs::read(module).with_context(|| format!("read {}", module.display()))?;
        archive.add(&format!("modules/{name}"), FILE, (0, 0), &content);
    }
    archive.add("init", EXECUTABLE, (0, 0), INIT.as_bytes());
    let mut file = fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(&archive.finish()).with_context(|| format!("write {}", path.display()))
}

fn static_program(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        bail!("{} is no ELF program", path.display());
    }
    // The program header PT_INTERP names the dynamic loader; its path is in the first page.
    let head = &bytes[..bytes.len().min(4096)];
    if head.windows(8).any(|window| window == b"/ld-linu") {
        bail!("{} needs shared libraries, which the guests do not have", path.display());
    }
    Ok(bytes)
}

/// A cpio archive in the "new ASCII" form (the kernel's `Documentation/driver-api/early-userspace/
/// buffer-format.rst`).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // magic, ino, mode, uid, gid, nlink, mtime, filesize, major, minor, rmajor, rminor,
        // namesize, check
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_sized() {
        let mut archive = Archive::default();
        archive.add("a", EXECUTABLE, (0, 0), b"hello");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[6 + 6 * 8..6 + 7 * 8], b"00000005", "the size of the content");
        // 110 bytes of head and 2 of name are padded to 112.
        assert_eq!(&bytes[112..117], b"hello");
        assert_eq!(&bytes[120..126], b"070701", "the next entry is aligned to 4");
        assert!(bytes.len() % 4 == 0);
    }

    #[test]
    fn a_program_that_is_not_static_is_refused() {
        let error = static_program(Path::new("/proc/self/exe")).expect_err("tests are dynamic");
        assert!(error.to_string().contains("shared libraries"), "{error}");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let script = directory.path().join("script");
        fs::write(&script, "#!/bin/sh\n").expect("writable");
        assert!(static_program(&script).is_err());
    }
}
