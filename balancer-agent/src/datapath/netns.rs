//! The network namespaces of pods: found by the processes in their cgroups, entered by threads of their own.

use nix::sched::{CloneFlags, setns};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

/// Most processes of a pod that are asked for their network namespaces.
const PROCESSES_MAX: usize = 4_096;
/// Most network namespaces of a pod: one, but for containers that run containers of their own.
const NAMESPACES_MAX: usize = 16;
/// Most cgroups of a pod that are looked into.
const CGROUPS_MAX: usize = 1_024;

/// Does something in a network namespace, told by its path.
///
/// # Errors
/// As `act` and the kernel say.
pub fn within<T: Send>(
    namespace: &Path,
    act: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = File::open(namespace)?;
    // A thread that ends with it: a thread that failed to go back would be in the wrong place.
    thread::scope(|scope| {
        let entered =
            thread::Builder::new().name("pod-netns".into()).spawn_scoped(scope, || {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                act()
            })?;
        entered.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

/// The network namespaces of a pod's processes, each once, but for the agent's own. What stood in the way is
/// added to `errors`.
pub fn of_cgroup(cgroup: Option<&Path>, errors: &mut Vec<String>) -> Vec<PathBuf> {
    let inode = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino());
    // The calling thread's: threads of a process need not be in the same one.
    let own = inode(Path::new("/proc/thread-self/ns/net")).ok();
    let mut known = vec![];
    let mut namespaces = vec![];
    for pid in cgroup.map(processes).unwrap_or_default() {
        if pid == "0" {
            errors.push(
                "a process of the pod is not visible; hint: run the agent in the node's PID \
                 namespace (hostPID)"
                    .into(),
            );
            continue;
        }
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        match inode(&path) {
            Ok(inode) if Some(inode) == own || known.contains(&inode) => {}
            Ok(inode) if known.len() < NAMESPACES_MAX => {
                known.push(inode);
                namespaces.push(path);
            }
            Ok(_) => break,
            // It has ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => errors.push(format!("network namespace of process {pid}: {error}")),
        }
    }
    namespaces
}

/// The processes in a cgroup and below it.
fn processes(cgroup: &Path) -> Vec<String> {
    let mut pending = vec![cgroup.to_owned()];
    let mut processes = Vec::new();
    let mut seen = 0;
    while let Some(directory) = pending.pop() {
        seen += 1;
        if seen > CGROUPS_MAX || processes.len() >= PROCESSES_MAX {
            break;
        }
        // Threaded cgroups and those that have gone cannot be read.
        let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        processes.extend(listed.lines().map(str::to_owned));
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|it| it.is_dir());
        pending.extend(entries.flatten().filter(is_directory).map(|entry| entry.path()));
    }
    processes
}
