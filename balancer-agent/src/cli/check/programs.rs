//! Who else sits on the hooks: programs of other owners on the balanced cgroup and those above it.

use super::Check;
use crate::{
    cli::arguments::Global,
    datapath::{
        cgroup, hooks,
        sys::{self, AttachType},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::{Path, PathBuf},
};

const CHECK: &str = "hooks";

/// One line for each other owner's program that may lead connections elsewhere, or one for all.
pub(super) fn check(global: &Global) -> Vec<Check> {
    let (Ok(root), Ok(balanced)) = (cgroup::root(), global.cgroup()) else {
        return vec![Check::warn(CHECK, "no cgroup to look at", "see cgroup v2 above")];
    };
    let ours: BTreeSet<u32> = hooks::HOOKS
        .iter()
        .filter_map(|(name, _)| hooks::link_info(&global.pins(), name).ok().flatten())
        .map(|link| link.program_id)
        .collect();
    let names = names_of_programs();
    let mut checks = Vec::new();
    let mut harmless = 0;
    for (hook, attach_type) in hooks::HOOKS {
        for cgroup in above(&root, &balanced) {
            let found = match others(&cgroup, attach_type, &ours) {
                Ok(found) => found,
                Err(error) => {
                    let finding = format!("ask for programs of {}: {error}", cgroup.display());
                    return vec![Check::warn(CHECK, finding, "run as root")];
                }
            };
            for id in found {
                // Only what runs at connect() can lead a connection elsewhere.
                if !matches!(attach_type, AttachType::Connect4 | AttachType::Connect6) {
                    harmless += 1;
                    continue;
                }
                let name = names.get(&id).map_or("without a name", String::as_str);
                checks.push(Check::warn(
                    CHECK,
                    format!(
                        "`{hook}` of {}: program {id} ({name}) of another owner",
                        cgroup.display()
                    ),
                    "where both know a destination, the one that runs first decides; balancer \
                     refuses no connection, such a program may; keep their services apart",
                ));
            }
        }
    }
    if checks.is_empty() {
        let (own, all) = (ours.len(), hooks::HOOKS.len());
        let finding =
            format!("{own} of {all} are ours; {harmless} of others leave destinations alone");
        checks.push(Check::ok(CHECK, finding));
    }
    checks
}

/// A cgroup and all above it, from the root down, in the order of their ids' hierarchy.
fn above(root: &Path, cgroup: &Path) -> Vec<PathBuf> {
    let mut path: Vec<_> =
        cgroup.ancestors().take_while(|path| path.starts_with(root)).map(Path::to_owned).collect();
    path.reverse();
    path
}

fn others(cgroup: &Path, hook: AttachType, ours: &BTreeSet<u32>) -> io::Result<Vec<u32>> {
    let directory = File::open(cgroup)?;
    let programs = sys::query_programs(&directory, hook)?;
    Ok(programs.into_iter().filter(|id| !ours.contains(id)).collect())
}

/// Names by id, as far as we may ask for them (`CAP_SYS_ADMIN`).
fn names_of_programs() -> BTreeMap<u32, String> {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cgroup_on_the_way_is_looked_at() {
        let found = above(Path::new("/c"), Path::new("/c/a/b"));
        let expected: Vec<PathBuf> = ["/c", "/c/a", "/c/a/b"].map(Into::into).into();
        assert_eq!(found, expected);
        assert!(above(Path::new("/c"), Path::new("/other")).is_empty());
    }
}
