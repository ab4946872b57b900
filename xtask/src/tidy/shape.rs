//! Rules on files and folders: first line, length, names.

use syn::{
    ImplItemFn, ItemFn, TraitItemFn,
    spanned::Spanned,
    visit::{self, Visit},
};

use super::{Source, Violation};

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 9] =
    ["util", "utils", "helper", "helpers", "misc", "manager", "common", "shared", "stuff"];

/// Folders that cargo gives a meaning, and so need no module file.
const CARGO_FOLDERS: [&str; 5] = ["src", "bin", "tests", "benches", "examples"];

/// Checks one file.
pub(super) fn check(source: &Source) -> Vec<Violation> {
    let Some(syntax) = &source.syntax else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut report = |line, rule: String, fix: &str| {
        found.push(Violation::new(&source.path, line, rule, fix));
    };
    if !source.text.starts_with("//! ") {
        report(1, "the first line is no `//!`".into(), "say in one sentence what the file is");
    }
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        let rule = format!("{lines} lines, the ceiling is {FILE_LINES_MAX}");
        report(FILE_LINES_MAX + 1, rule, "split it at its second subject");
    }
    if source.stem() == "mod" {
        report(1, "mod.rs is not used".into(), "name it after its folder, beside that");
    }
    if let Some(name) = source.path.split(['/', '.']).find(|part| EMPTY_NAMES.contains(part)) {
        report(1, format!("`{name}` says nothing"), "name it after the noun that it defines");
    }
    let mut functions = Functions { path: &source.path, found };
    functions.visit_file(syntax);
    functions.found
}

/// Every folder `x/` of modules has its `x.rs`.
pub(super) fn check_folders(sources: &[Source]) -> Vec<Violation> {
    let rust = || sources.iter().filter(|source| source.syntax.is_some());
    let mut found: Vec<Violation> = Vec::new();
    for source in rust() {
        let Some((folder, _)) = source.path.rsplit_once('/') else {
            continue;
        };
        let name = folder.rsplit('/').next().unwrap_or(folder);
        let is_crate = sources.iter().any(|other| other.path == format!("{folder}/Cargo.toml"));
        if is_crate || CARGO_FOLDERS.contains(&name) {
            continue;
        }
        let expected = [format!("{folder}.rs"), format!("{folder}/main.rs")];
        let already =
            found.iter().any(|violation| violation.rule.contains(&format!("`{folder}/`")));
        if !already && !rust().any(|other| expected.contains(&other.path)) {
            let rule = format!("the folder `{folder}/` has no module file");
            found.push(Violation::new(&source.path, 1, rule, format!("add {}", expected[0])));
        }
    }
    found
}

struct Functions<'source> {
    path: &'source str,
    found: Vec<Violation>,
}

impl Functions<'_> {
    fn measure(&mut self, name: &syn::Ident, item: &impl Spanned) {
        let (start, end) = (item.span().start().line, item.span().end().line);
        let lines = end + 1 - name.span().start().line.min(end);
        if lines > FUNCTION_LINES_MAX {
            let rule = format!("`{name}` has {lines} lines, the limit is {FUNCTION_LINES_MAX}");
            let fix = "give its parts names of their own";
            self.found.push(Violation::new(self.path, start, rule, fix));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.measure(&item.sig.ident, item);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.measure(&item.sig.ident, item);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        self.measure(&item.sig.ident, item);
        visit::visit_trait_item_fn(self, item);
    }
}
