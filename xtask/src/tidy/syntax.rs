//! Rules on Rust's syntax: where `unsafe` may stand, and attributes that need a reason.

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute,
    visit::{self, Visit},
};

use super::{Source, Violation};

/// Where `unsafe` may stand, and why it must.
const UNSAFE_ALLOWED: [(&str, &str); 10] = [
    ("balancer-ebpf/src/main.rs", "entries get raw contexts, and the licence is a linked symbol"),
    ("balancer-ebpf/src/maps.rs", "maps are statics that the kernel fills"),
    ("balancer-ebpf/src/lookup.rs", "values in maps are raw pointers"),
    ("balancer-ebpf/src/lookup/", "values in maps are raw pointers"),
    ("balancer-ebpf/src/context.rs", "contexts are raw pointers"),
    ("balancer-ebpf/src/pick.rs", "global functions are linked symbols"),
    ("balancer-ebpf/src/http2/", "packets and flows that processors share are raw pointers"),
    ("balancer-agent/src/datapath/", "bpf(2) and netlink calls that aya lacks"),
    ("balancer-agent/src/daemon/memory.rs", "malloc_trim(3) is a call into the C library"),
    ("tests/src/", "namespaces and sockets are made by system calls"),
];

/// Checks one file.
pub(super) fn check(source: &Source) -> Vec<Violation> {
    let Some(syntax) = &source.syntax else {
        return Vec::new();
    };
    let mut attributes = Attributes { path: &source.path, found: Vec::new() };
    attributes.visit_file(syntax);
    let mut found = attributes.found;
    if !unsafe_allowed(&source.path) {
        let tokens: TokenStream = source.text.parse().unwrap_or_default();
        for line in lines_with(&tokens, "unsafe") {
            let rule = "`unsafe` outside the files that are for it";
            let fix = "call a safe function of one of the files listed in xtask/src/tidy/syntax.rs";
            found.push(Violation::new(&source.path, line, rule, fix));
        }
    }
    found
}

fn unsafe_allowed(path: &str) -> bool {
    // A folder allows the file of its own module too.
    let fits = |place: &str| match place.strip_suffix('/') {
        Some(folder) => path.starts_with(place) || path.strip_suffix(".rs") == Some(folder),
        None => path == place,
    };
    UNSAFE_ALLOWED.iter().any(|(place, _)| fits(place))
}

/// The lines with the word `word`, comments and strings aside.
fn lines_with(tokens: &TokenStream, word: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for token in tokens.clone() {
        match token {
            TokenTree::Ident(ident) if ident == word => lines.push(ident.span().start().line),
            TokenTree::Group(group) => lines.extend(lines_with(&group.stream(), word)),
            _ => {}
        }
    }
    lines
}

struct Attributes<'source> {
    path: &'source str,
    found: Vec<Violation>,
}

impl<'ast> Visit<'ast> for Attributes<'_> {
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let path = attribute.path();
        let line = path.segments.first().map_or(1, |first| first.ident.span().start().line);
        if path.is_ident("ignore") {
            let rule = "an ignored test proves nothing";
            let fix = "make it pass, or probe for what it needs and print SKIP with the reason";
            self.found.push(Violation::new(self.path, line, rule, fix));
        }
        let silences = path.is_ident("allow") || path.is_ident("expect");
        if let (true, Ok(list)) = (silences, attribute.meta.require_list())
            && lines_with(&list.tokens, "reason").is_empty()
        {
            let rule = "a lint is silenced without a reason";
            let fix = "add `reason = \"…\"`, or mend what the lint says";
            self.found.push(Violation::new(self.path, line, rule, fix));
        }
        visit::visit_attribute(self, attribute);
    }
}
