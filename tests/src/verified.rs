//! How many instructions the verifier of the running kernel went through for each program.

pub mod figures;

use self::figures::Run;
use anyhow::Context;
use aya::programs::{Program, ProgramError};
use balancer_agent::datapath::loader::{self, HTTP2_PROGRAMS, Loaded, PROGRAMS};

/// What a compiler notes down in the object's debug information.
const PRODUCER: &[u8] = b"(rustc version ";

/// The counts of all programs, of stand-ins for older kernels as well. Before Linux 5.16 kernels tell none.
///
/// # Errors
/// When the kernel does not tell of a program, or does not say which kernel it is.
pub fn run(loaded: &mut Loaded) -> anyhow::Result<Run> {
    let kernel = nix::sys::utsname::uname().context("ask for the kernel's release")?;
    let kernel = kernel.release().to_string_lossy().into_owned();
    let mut run = Run { kernel, toolchain: toolchain(loader::object()), ..Run::default() };
    for spec in PROGRAMS.iter().chain(&HTTP2_PROGRAMS) {
        for name in [Some(spec.name), spec.compat.map(|(compat, _)| compat)].into_iter().flatten() {
            let program = loaded.ebpf.program_mut(name).with_context(|| format!("no `{name}`"))?;
            if !load(program) {
                continue;
            }
            let info = program.info().with_context(|| format!("ask for program `{name}`"))?;
            if let Some(count) = info.verified_instruction_count() {
                run.counts.insert(name.into(), count);
            }
        }
    }
    Ok(run)
}

/// Loads a program that is not; whether this kernel takes it.
fn load(program: &mut Program) -> bool {
    let loaded = match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => return false,
    };
    matches!(loaded, Ok(()) | Err(ProgramError::AlreadyLoaded))
}

/// The compiler of an object, such as `rustc-1.96.0`.
fn toolchain(object: &[u8]) -> String {
    let at = object.windows(PRODUCER.len()).position(|window| window == PRODUCER);
    let rest = at.map_or(&[][..], |at| &object[at + PRODUCER.len()..]);
    let version: Vec<u8> =
        rest.iter().copied().take_while(|byte| !b" )\0".contains(byte)).take(32).collect();
    match String::from_utf8(version) {
        Ok(version) if !version.is_empty() => format!("rustc-{version}"),
        _ => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{figures::Figures, figures::Judgement, *};

    fn run(kernel: &str, toolchain: &str, counts: &[(&str, u32)]) -> Run {
        let counts = counts.iter().map(|(program, count)| ((*program).into(), *count)).collect();
        Run { kernel: kernel.into(), toolchain: toolchain.into(), counts }
    }

    #[test]
    fn growth_is_found_and_accepted() {
        let mut figures =
            Figures::parse("# head\n6.1 rustc-1.96.0 connect4 1000\n").expect("valid");
        let judge = |figures: &Figures, run: &Run| figures.judge(run, "ACCEPT");
        for count in [1, 1_000, 1_100] {
            let same = run("6.1.0-56-cloud-amd64", "rustc-1.96.0", &[("connect4", count)]);
            assert_eq!(judge(&figures, &same), Judgement::Kept);
        }
        let more = run("6.1.0", "rustc-1.96.0", &[("connect4", 1_101), ("new", 7)]);
        let Judgement::Grown(grown) = judge(&figures, &more) else { panic!("it grew") };
        for said in ["`connect4`", "was 1000", "is 1101", "Linux 6.1", "rustc-1.96.0", "ACCEPT"] {
            assert!(grown[0].contains(said), "{said}: {grown:?}");
        }
        assert!(grown[1].contains("`new` has no figure") && grown.len() == 2, "{grown:?}");
        figures.accept(&more);
        assert_eq!(judge(&figures, &more), Judgement::Kept);
        assert_eq!(Figures::parse(&figures.render()), Ok(figures.clone()));
        // What is no longer there leaves the file, and other kernels and compilers stay.
        figures.accept(&run("6.12.1", "rustc-1.96.0", &[("connect6", 5)]));
        figures.accept(&run("6.1.9", "rustc-1.96.0", &[("new", 8)]));
        assert_eq!(figures.committed(&more, "connect4"), None);
        assert_eq!(figures.render().lines().filter(|line| !line.starts_with('#')).count(), 2);
    }

    #[test]
    fn what_cannot_be_compared_says_why() {
        let figures = Figures::parse("6.1 rustc-1.96.0 connect4 1000\n").expect("valid");
        let cases = [
            (run("5.10.0", "rustc-1.96.0", &[]), "Linux 5.10 tells no counts"),
            (run("6.18.5", "rustc-1.96.0", &[("connect4", 1)]), "there are none"),
            (run("6.1.0", "rustc-1.97.0", &[("connect4", 9_999)]), "taken with rustc-1.96.0"),
        ];
        for (run, said) in cases {
            let Judgement::Unguarded(why) = figures.judge(&run, "ACCEPT") else {
                panic!("{run:?}")
            };
            assert!(why.contains(said), "{why}");
        }
        assert!(Figures::parse("6.1 connect4 1000").expect_err("too short").contains("line 1"));
        assert!(Figures::parse("6.1 x connect4 many").expect_err("no count").contains("many"));
    }

    #[test]
    fn the_object_tells_its_compiler() {
        assert_eq!(toolchain(b"\0clang LLVM (rustc version 1.96.0 (ac6 2026))\0"), "rustc-1.96.0");
        assert_eq!(toolchain(b"x(rustc version 1.97.0-nightly"), "rustc-1.97.0-nightly");
        assert_eq!(toolchain(b"(rustc version "), "unknown");
        assert_eq!(toolchain(b""), "unknown");
        assert!(toolchain(loader::object()).starts_with("rustc-1."));
    }
}
