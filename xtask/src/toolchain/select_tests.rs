//! Tests of the selection: facts in, choice and verdicts out.

use super::*;

fn compiler(rustc: &str, origin: Origin, release: &str, core: bool, source: bool) -> Compiler {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let about = CompilerAbout {
        release: release.into(),
        version,
        llvm_major: Some(22),
        has_core: core,
        has_source: source,
        cargo: (origin == Origin::Rustup).then(|| Path::new(rustc).with_file_name("cargo")),
    };
    Compiler { rustc: rustc.into(), origin, about: Ok(about) }
}

fn distribution() -> Compiler {
    compiler("/usr/bin/rustc", Origin::Path, "1.96.0", true, false)
}

fn nightly_with_source() -> Compiler {
    compiler("/up/nightly/bin/rustc", Origin::Rustup, "1.97.0-nightly", false, true)
}

fn stable(source: bool) -> Compiler {
    compiler("/up/stable/bin/rustc", Origin::Rustup, "1.95.0", false, source)
}

fn linker(path: &str, minor: u32, llvm_major: Option<u32>) -> Linker {
    Linker { path: path.into(), about: Ok(LinkerAbout { version: (0, minor), llvm_major }) }
}

fn facts(compilers: Vec<Compiler>, linkers: Vec<Linker>) -> Facts {
    Facts { compilers, linkers, cargo: "/running/cargo".into() }
}

fn chosen(facts: &Facts) -> Choice {
    match select(facts).selection {
        Selection::Ready(choice) => choice,
        Selection::Missing(missing) => panic!("nothing chosen: {missing:?}"),
    }
}

#[test]
fn a_precompiled_core_wins_over_sources_whatever_the_order() {
    let linkers = vec![linker("/linker", 13, Some(22))];
    let choice = chosen(&facts(vec![nightly_with_source(), distribution()], linkers));
    assert_eq!(choice.rustc, Path::new("/usr/bin/rustc"));
    assert_eq!(choice.core, Core::Precompiled);
    assert_eq!(choice.cargo, Path::new("/running/cargo"), "any cargo works with it");
}

#[test]
fn a_nightly_with_source_is_run_with_its_own_cargo() {
    let linkers = vec![linker("/linker", 13, Some(22))];
    let choice = chosen(&facts(vec![stable(true), nightly_with_source()], linkers));
    assert_eq!(choice.rustc, Path::new("/up/nightly/bin/rustc"));
    assert_eq!(choice.core, Core::Source);
    assert_eq!(choice.cargo, Path::new("/up/nightly/bin/cargo"));
}

#[test]
fn a_stable_with_source_is_the_last_resort() {
    let linkers = vec![linker("/linker", 13, Some(22))];
    let choice = chosen(&facts(vec![stable(true)], linkers));
    assert_eq!(choice.core, Core::Source);
}

#[test]
fn without_core_and_source_a_compiler_is_missing() {
    let report = select(&facts(vec![stable(false)], vec![linker("/linker", 13, Some(22))]));
    assert_eq!(report.selection, Selection::Missing(Missing::Compiler));
    assert!(matches!(&report.compilers[0], Verdict::Rejected(why) if why.contains("rust-src")));
    assert_eq!(select(&facts(vec![], vec![])).selection, Selection::Missing(Missing::Compiler));
}

#[test]
fn a_compiler_older_than_the_workspace_allows_is_rejected() {
    let old = compiler("/usr/bin/rustc", Origin::Path, "1.85.0", true, false);
    let report = select(&facts(vec![old], vec![linker("/linker", 13, Some(22))]));
    assert!(matches!(&report.compilers[0], Verdict::Rejected(why) if why.contains("oldest")));
}

#[test]
fn the_override_is_final() {
    let mine = compiler("/mine/rustc", Origin::Override, "1.95.0", false, false);
    let report = select(&facts(vec![mine, distribution()], vec![linker("/linker", 13, None)]));
    match report.selection {
        Selection::Missing(Missing::Override { rustc, .. }) => {
            assert_eq!(rustc, Path::new("/mine/rustc"));
        }
        other => panic!("expected the override to be refused: {other:?}"),
    }

    let mine = compiler("/mine/rustc", Origin::Override, "1.96.0", true, false);
    let linkers = vec![linker("/linker", 13, Some(22))];
    assert_eq!(chosen(&facts(vec![mine, distribution()], linkers)).rustc, Path::new("/mine/rustc"));
}

#[test]
fn a_linker_with_an_older_llvm_is_passed_over() {
    let linkers = vec![linker("/old", 13, Some(21)), linker("/tools", 13, Some(23))];
    let facts = facts(vec![distribution()], linkers);
    assert_eq!(chosen(&facts).linker, Path::new("/tools"));
    assert!(matches!(&select(&facts).linkers[0], Verdict::Rejected(why) if why.contains("21")));
}

#[test]
fn without_a_fitting_linker_the_llvm_that_it_needs_is_said() {
    for linkers in [vec![], vec![linker("/old", 13, Some(19))], vec![linker("/old", 9, None)]] {
        let selection = select(&facts(vec![distribution()], linkers)).selection;
        let expected = Missing::Linker { llvm_major_min: Some(22) };
        assert_eq!(selection, Selection::Missing(expected));
    }
}

#[test]
fn a_second_compiler_is_taken_if_only_that_one_has_a_linker() {
    let mut newest = distribution();
    if let Ok(about) = &mut newest.about {
        about.llvm_major = Some(23);
    }
    let facts = facts(vec![newest, nightly_with_source()], vec![linker("/linker", 13, Some(22))]);
    assert_eq!(chosen(&facts).rustc, Path::new("/up/nightly/bin/rustc"));
}

#[test]
fn a_candidate_that_does_not_run_is_rejected_with_its_error() {
    let mut broken = distribution();
    broken.about = Err("exec format error".into());
    let report = select(&facts(vec![broken], vec![]));
    let text = format!("{:?}", report.compilers[0]);
    assert!(text.contains("Rejected") && text.contains("exec format error"), "{text}");
}
