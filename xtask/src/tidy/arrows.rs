//! Rules on who may use whom: the arrows of ARCHITECTURE.md.

use proc_macro2::Span;
use serde_json::Value;
use syn::{
    Path, UseTree,
    visit::{self, Visit},
};

use super::{Source, Violation};
use crate::{process, workspace};

/// What the files of a module must not use.
struct Arrow {
    /// The module's file and folder, without `.rs` and `/`.
    module: &'static str,
    /// Starts of paths; a `*` at the end stands for the rest of a name.
    forbidden: &'static [&'static str],
    why: &'static str,
}

const ARROWS: [Arrow; 3] = [
    Arrow {
        module: "balancer-agent/src/core",
        forbidden: &[
            "tokio*",
            "kube*",
            "aya*",
            "hickory*",
            "notify",
            "nix",
            "libc",
            "std::fs",
            "std::io",
            "std::process",
            "std::thread",
            "std::env",
            "std::net::TcpStream",
            "std::net::TcpListener",
            "std::net::UdpSocket",
            "std::os::unix::net",
            "std::time::SystemTime",
            "crate::sources",
            "crate::datapath",
            "crate::cli",
            "crate::admin",
            "crate::http",
        ],
        why: "core decides and touches nothing: time and events are its arguments",
    },
    Arrow {
        module: "balancer-agent/src/sources",
        forbidden: &["crate::datapath", "crate::cli", "aya*"],
        why: "sources emit events, and know nothing of what comes of them",
    },
    Arrow {
        module: "balancer-agent/src/datapath",
        forbidden: &["crate::sources", "crate::cli", "hickory*", "kube*"],
        why: "the datapath applies plans, and knows nothing of where they come from",
    },
];

/// The only crates that a crate may depend on.
const DEPENDENCIES: [(&str, &[&str]); 2] = [
    ("balancer-common", &["bytemuck"]),
    ("balancer-ebpf", &["balancer-common", "aya-ebpf", "aya-ebpf-bindings", "aya-log-ebpf"]),
];

/// Checks one file.
pub(super) fn check(source: &Source) -> Vec<Violation> {
    let Some(syntax) = &source.syntax else {
        return Vec::new();
    };
    let belongs = |arrow: &&Arrow| {
        let rest = source.path.strip_prefix(arrow.module);
        rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    };
    let Some(arrow) = ARROWS.iter().find(belongs) else {
        return Vec::new();
    };
    let mut paths = Paths { module: module_of(&source.path), found: Vec::new() };
    paths.visit_file(syntax);
    let mut violations: Vec<Violation> = Vec::new();
    for (path, line) in paths.found {
        if arrow.forbidden.iter().any(|forbidden| starts_with(&path, forbidden)) {
            let rule = format!("`{}` is used in {}", path.join("::"), arrow.module);
            violations.push(Violation::new(&source.path, line, rule, arrow.why));
        }
    }
    violations
}

/// Checks the dependencies of crates: pairs of a crate and one that it depends on.
pub(super) fn check_dependencies(found: &[(String, String)]) -> Vec<Violation> {
    let is_wrong = |(package, dependency): &&(String, String)| {
        let rule = DEPENDENCIES.iter().find(|(name, _)| name == package);
        rule.is_some_and(|(_, allowed)| !allowed.contains(&dependency.as_str()))
    };
    found
        .iter()
        .filter(is_wrong)
        .map(|(package, dependency)| {
            let rule = format!("{package} depends on {dependency}");
            let fix = "move what needs it to a crate further out";
            Violation::new(&format!("{package}/Cargo.toml"), 1, rule, fix)
        })
        .collect()
}

/// The dependencies of the workspace's crates, those for tests and build scripts aside.
pub(super) fn dependencies() -> Vec<(String, String)> {
    let mut cargo = workspace::cargo();
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let text = process::output(&mut cargo).expect("cargo describes the workspace");
    let metadata: Value = serde_json::from_str(&text).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    let mut found = Vec::new();
    for package in packages {
        let dependencies = package["dependencies"].as_array().expect("a list, if an empty one");
        for dependency in dependencies.iter().filter(|dependency| dependency["kind"].is_null()) {
            let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
            found.push((name(package), name(dependency)));
        }
    }
    found
}

/// `balancer-agent/src/core/plan.rs` is `crate::core::plan`.
fn module_of(path: &str) -> Vec<String> {
    let inside = path.split_once("/src/").map_or(path, |(_, inside)| inside);
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    let parts = inside.split('/').filter(|part| !["lib", "main"].contains(part));
    std::iter::once("crate").chain(parts).map(str::to_owned).collect()
}

fn starts_with(path: &[String], forbidden: &str) -> bool {
    let parts: Vec<&str> = forbidden.split("::").collect();
    path.len() >= parts.len()
        && parts.iter().zip(path).all(|(part, segment)| match part.strip_suffix('*') {
            Some(start) => segment.starts_with(start),
            None => segment == part,
        })
}

/// Collects every path of a file, those in `use` spread out.
struct Paths {
    module: Vec<String>,
    found: Vec<(Vec<String>, usize)>,
}

impl Paths {
    fn add(&mut self, segments: &[String], span: Span) {
        let mut resolved: Vec<String> = Vec::new();
        for segment in segments {
            match segment.as_str() {
                "self" if resolved.is_empty() => resolved.clone_from(&self.module),
                "super" => {
                    if resolved.is_empty() {
                        resolved.clone_from(&self.module);
                    }
                    resolved.pop();
                }
                _ => resolved.push(segment.clone()),
            }
        }
        self.found.push((resolved, span.start().line));
    }

    fn spread(&mut self, tree: &UseTree, before: &[String]) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.spread(&path.tree, &with(&path.ident)),
            UseTree::Name(name) => self.add(&with(&name.ident), name.ident.span()),
            UseTree::Rename(rename) => self.add(&with(&rename.ident), rename.ident.span()),
            UseTree::Glob(glob) => self.add(before, glob.star_token.spans[0]),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.spread(tree, before);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.spread(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let segments: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // A path of one part names something of this file, or something that `use` has named.
        if let (true, Some(first)) = (segments.len() > 1, path.segments.first()) {
            self.add(&segments, first.ident.span());
        }
        visit::visit_path(self, path);
    }
}
