//! Tests of the rules themselves: each finds its violation, and leaves what is right alone.

use super::*;

fn source(path: &str, text: &str) -> Source {
    match Source::new(path, text) {
        Ok(source) => source,
        Err(violation) => panic!("{violation}"),
    }
}

/// Asserts that the rules for one file together find exactly the `expected` lines and words.
fn assert_found(path: &str, text: &str, expected: &[(usize, &str)]) {
    let found = check_file(&source(path, text));
    let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{path}: {shown:#?}");
    for (violation, (line, word)) in found.iter().zip(expected) {
        assert_eq!(violation.line, *line, "{violation}");
        assert!(violation.to_string().contains(word), "{violation} lacks {word}");
    }
}

#[test]
fn files_have_a_first_line_a_name_and_an_end() {
    assert_found("a/src/plan.rs", "//! Plan.\n", &[]);
    assert_found("a/src/plan.rs", "fn f() {}\n", &[(1, "//!")]);
    assert_found("a/src/utils.rs", "//! Things.\n", &[(1, "utils")]);
    assert_found("a/src/plan/mod.rs", "//! Plan.\n", &[(1, "mod.rs")]);
    let long = format!("//! Long.\n{}", "// line\n".repeat(400));
    assert_found("a/src/plan.rs", &long, &[(401, "401 lines")]);
}

#[test]
fn functions_are_short_wherever_they_stand() {
    let body = "    let _ = 1;\n".repeat(69);
    let short = format!("//! F.\nfn f() {{\n{}}}\n", "    let _ = 1;\n".repeat(68));
    assert_found("a/src/f.rs", &short, &[]);
    assert_found("a/src/f.rs", &format!("//! F.\nfn f() {{\n{body}}}\n"), &[(2, "`f` has 71")]);
    let method = format!("//! F.\nimpl X {{\nfn g() {{\n{body}}}\n}}\n");
    assert_found("a/src/f.rs", &method, &[(3, "`g` has 71")]);
}

#[test]
fn a_folder_of_modules_has_its_file() {
    let lonely = [source("a/src/plan/step.rs", "//! Step.\n")];
    let found = check(&lonely);
    assert!(found[0].to_string().contains("add a/src/plan.rs"), "{found:?}");
    let pair =
        [source("a/src/plan/step.rs", "//! Step.\n"), source("a/src/plan.rs", "//! Plan.\n")];
    assert_eq!(check(&pair), []);
    let script = [source("a/build.rs", "//! Script.\n"), source("a/Cargo.toml", "")];
    assert_eq!(check(&script), []);
}

#[test]
fn unfinished_work_is_found() {
    assert_found("a/src/x.rs", "//! X.\n// TODO: later\n", &[(2, "TODO")]);
    assert_found("a/src/x.rs", "//! X.\nfn f() { todo!() }\n", &[(2, "todo!")]);
    assert_found("a/README.md", "FIXME\n", &[(1, "FIXME")]);
    assert_found("a/src/x.rs", "//! X.\nfn to_dos() {}\nfn TODOS() {}\n", &[]);
    assert_found("a/src/x.rs", "//! X.\n#[test]\n#[ignore]\nfn f() {}\n", &[(3, "ignored")]);
}

#[test]
fn places_of_one_machine_are_found() {
    assert_found("a/src/x.rs", "//! X.\nconst P: &str = \"/home/me/x\";\n", &[(2, "/home/")]);
    assert_found("a/x.sh", "cd /root/x\n", &[(1, "/root/")]);
    assert_found("a/x.md", "`target/tmp/x` and `$HOME/work/x` are fine\n", &[]);
    assert_found(
        "a/Cargo.lock",
        "source = \"registry+https://mirror.corp.net/index\"\n",
        &[(1, "corp.net")],
    );
    let fine = "https://docs.rs/aya http://127.0.0.1:80 https://www.kernel.org/x http://{address}/ http://a.example";
    assert_found("a/x.md", fine, &[]);
}

#[test]
fn unsafe_stands_only_where_it_may() {
    let text = "//! X.\n// unsafe in words is fine\nfn f() { unsafe { g() } }\n";
    assert_found("balancer-agent/src/datapath/link.rs", text, &[]);
    assert_found("balancer-agent/src/datapath.rs", text, &[]);
    assert_found("balancer-ebpf/src/maps.rs", text, &[]);
    assert_found("balancer-ebpf/src/flow.rs", text, &[(3, "unsafe")]);
    assert_found("balancer-agent/src/datapaths.rs", text, &[(3, "unsafe")]);
    assert_found("a/src/x.rs", "//! X.\nm! { unsafe impl A for B {} }\n", &[(2, "unsafe")]);
}

#[test]
fn a_silenced_lint_has_a_reason() {
    let with = "//! X.\n#[expect(dead_code, reason = \"tests\")]\nfn f() {}\n";
    assert_found("a/src/x.rs", with, &[]);
    assert_found("a/src/x.rs", "//! X.\n#[allow(dead_code)]\nfn f() {}\n", &[(2, "reason")]);
    assert_found("a/src/x.rs", "//! X.\n#![expect(dead_code)]\nfn f() {}\n", &[(2, "reason")]);
}

#[test]
fn core_touches_nothing() {
    let core = "balancer-agent/src/core/plan.rs";
    assert_found(
        core,
        "//! X.\nuse std::{collections::BTreeMap, net::IpAddr};\nuse super::model;\n",
        &[],
    );
    assert_found(
        core,
        "//! X.\nuse std::{net::{IpAddr, TcpStream}, fs};\n",
        &[(2, "TcpStream"), (2, "std::fs")],
    );
    assert_found(core, "//! X.\nuse tokio_util::codec;\n", &[(2, "tokio_util")]);
    assert_found(core, "//! X.\nfn f() { std::process::exit(1) }\n", &[(2, "std::process")]);
    assert_found(core, "//! X.\nuse super::super::datapath::maps;\n", &[(2, "crate::datapath")]);
    assert_found("balancer-agent/src/core.rs", "//! X.\nuse crate::cli;\n", &[(2, "crate::cli")]);
    assert_found(
        "balancer-agent/src/sources/dns.rs",
        "//! X.\nuse crate::datapath::x;\n",
        &[(2, "datapath")],
    );
    assert_found(
        "balancer-agent/src/datapath/x.rs",
        "//! X.\nuse crate::sources::x;\n",
        &[(2, "sources")],
    );
    assert_found("balancer-agent/src/cli/x.rs", "//! X.\nuse crate::{sources, datapath};\n", &[]);
}

#[test]
fn crates_depend_only_inwards() {
    let pair = |package: &str, dependency: &str| (package.to_owned(), dependency.to_owned());
    let right = [pair("balancer-common", "bytemuck"), pair("balancer-agent", "tokio")];
    assert_eq!(check_dependencies(&right), []);
    let found =
        check_dependencies(&[pair("balancer-common", "serde"), pair("balancer-ebpf", "libc")]);
    assert_eq!(found.len(), 2);
    assert!(found[0].to_string().contains("balancer-common depends on serde"));
}

fn check_dependencies(found: &[(String, String)]) -> Vec<Violation> {
    arrows::check_dependencies(found)
}

#[test]
fn documents_are_linked() {
    let documents =
        |readme: &str| [source("README.md", readme), source("docs/kernels.md", "# Kernels\n")];
    assert_eq!(check(&documents("See [kernels](docs/kernels.md).\n")), []);
    let found = check(&documents("nothing\n"));
    assert!(found[0].to_string().starts_with("docs/kernels.md:1:"), "{found:?}");
    assert_eq!(check(&[source("docs/kernels.md", "")]), []);
}
