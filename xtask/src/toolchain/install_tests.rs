//! Tests of the installation plan: what the machine offers in, commands out.

use super::*;

fn debian() -> Offer {
    Offer {
        may_use_apt: true,
        apt_has_rust: true,
        llvm_installed: vec![],
        llvm_in_apt: vec![22],
        has_rustup: true,
        architecture: "x86_64".into(),
        tools: "/repo/target/tools".into(),
    }
}

fn ubuntu() -> Offer {
    Offer { apt_has_rust: false, llvm_in_apt: vec![], ..debian() }
}

const LINKER: Missing = Missing::Linker { llvm_major_min: Some(22) };

#[test]
fn debian_gets_its_own_rust_and_elsewhere_rustup_a_nightly() {
    let on_debian = plan(&Missing::Compiler, &debian());
    assert_eq!(on_debian, [Step::Apt(DEBIAN_RUST.map(String::from).to_vec())]);
    assert_eq!(plan(&Missing::Compiler, &ubuntu()), [Step::Nightly]);
}

#[test]
fn a_user_with_rustup_is_not_sent_to_root_for_the_compiler() {
    let user = Offer { may_use_apt: false, ..debian() };
    assert_eq!(plan(&Missing::Compiler, &user), [Step::Nightly]);
    let without_rustup = Offer { has_rustup: false, ..user };
    assert!(matches!(plan(&Missing::Compiler, &without_rustup)[..], [Step::Apt(_)]));
}

#[test]
fn a_machine_that_offers_nothing_gets_no_plan() {
    let nothing = Offer { has_rustup: false, ..ubuntu() };
    assert!(plan(&Missing::Compiler, &nothing).is_empty());
}

#[test]
fn the_linker_is_compiled_against_an_llvm_that_is_new_enough() {
    let steps = plan(&LINKER, &debian());
    assert!(
        matches!(&steps[..], [Step::Apt(packages), Step::CompileLinker { llvm_major: 22, .. }]
            if packages.contains(&"llvm-22-dev".to_owned())),
        "{steps:?}"
    );
    let installed = Offer { llvm_installed: vec![21, 23], ..debian() };
    let steps = plan(&LINKER, &installed);
    assert!(matches!(steps[..], [Step::CompileLinker { llvm_major: 23, .. }]), "{steps:?}");
}

#[test]
fn without_such_an_llvm_the_linkers_own_release_is_fetched() {
    let old = Offer { llvm_installed: vec![19], llvm_in_apt: vec![21], ..ubuntu() };
    let steps = plan(&LINKER, &old);
    assert!(matches!(steps[..], [Step::FetchLinker { .. }]), "{steps:?}");
    assert!(steps[0].to_string().contains("bpf-linker-x86_64-unknown-linux-musl.tar.zst"));
}

#[test]
fn steps_are_shown_as_commands() {
    let step = Step::CompileLinker { llvm_major: 22, tools: "/repo/target/tools".into() };
    assert_eq!(
        step.to_string(),
        "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked \
         --no-default-features --features llvm-22 --root /repo/target/tools"
    );
}
