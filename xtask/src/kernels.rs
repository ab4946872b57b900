//! `cargo xtask test-kernels`: the smoke test in other kernels, booted in QEMU without KVM.

mod debian;
mod guest;
mod initramfs;
mod packages;
mod report;
mod verified;

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::{
    guest::Guest,
    report::{Row, Verdict},
};
use crate::{artifacts, build, process, system, system::Need, workspace};

/// A kernel of the matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    /// Its name in the matrix and on the command line.
    pub(crate) name: &'static str,
    /// How its versions start.
    pub(crate) version_prefix: &'static str,
    /// The Debian suites that have it, the first one that does is taken.
    pub(crate) suites: &'static [&'static str],
    /// Which kernels of users it stands for.
    pub(crate) stands_for: &'static str,
    /// Modules that the guest loads.
    pub(crate) modules: &'static [&'static str],
}

const MATRIX: [Kernel; 4] = [
    Kernel {
        name: "5.10",
        version_prefix: "5.10.",
        suites: &["bullseye-security"],
        stands_for: "Debian 11; Ubuntu 22.04 (5.15), from below",
        modules: &[],
    },
    Kernel {
        name: "6.1",
        version_prefix: "6.1.",
        suites: &["bookworm-security", "bookworm"],
        stands_for: "Debian 12; Ubuntu 22.04 (5.15) from above, 24.04 (6.8) from below",
        // Before 6.6 there is no tcx: filters of clsact lead packets to the programs.
        modules: &["net/sched/sch_ingress.ko", "net/sched/cls_bpf.ko"],
    },
    Kernel {
        name: "6.12",
        version_prefix: "6.12.",
        suites: &["trixie", "bookworm-security"],
        stands_for: "Debian 13; Ubuntu 24.04 (6.8), from above",
        modules: &[],
    },
    Kernel {
        name: "7",
        version_prefix: "7.",
        suites: &["trixie-backports", "sid"],
        stands_for: "Ubuntu 26.04 (7.0) and newer",
        modules: &[],
    },
];

const NEEDS: [Need; 3] = [
    Need { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    Need { program: "busybox", package: "busybox-static" },
    Need { program: "dpkg-deb", package: "dpkg" },
];

/// Boot other kernels in QEMU and run the smoke test in each.
///
/// Debian's cloud kernels are fetched with a private apt configuration that leaves the system's
/// alone, and kept in the user's cache directory (balancer/kernels in `XDG_CACHE_HOME`). Each boots
/// in QEMU without KVM and runs the statically linked smoke test: load, attach, connect, count.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Test only these kernels of the matrix: 5.10, 6.1, 6.12, 7.
    #[arg(long = "kernel", value_name = "NAME", value_parser = MATRIX.map(|kernel| kernel.name))]
    kernels: Vec<String>,
    /// End a kernel that takes longer.
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout_s: u64,
    /// Look for newer versions of the kernels instead of using those kept.
    #[arg(long)]
    refresh: bool,
    /// Write the table into docs/kernels.md.
    #[arg(long)]
    write_docs: bool,
    /// Run this static program in the guests instead of the smoke test.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    if env::consts::ARCH != "x86_64" {
        bail!("the kernels of the matrix are for x86_64; this machine is {}", env::consts::ARCH);
    }
    system::require(&NEEDS, "boot other kernels")?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => smoke_program()?,
    };
    let logs = workspace::target().join("kernels");
    fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
    let wanted = |kernel: &&Kernel| {
        options.kernels.is_empty() || options.kernels.iter().any(|name| name == kernel.name)
    };
    let mut rows: Vec<Row> =
        MATRIX.iter().filter(wanted).map(|kernel| test(kernel, &program, &logs, options)).collect();
    verified::judge(&mut rows)?;
    println!("{}", report::table(&rows));
    if options.write_docs {
        report::write_docs(&workspace::root().join("docs/kernels.md"), &rows)?;
    }
    conclude(&rows)
}

fn conclude(rows: &[Row]) -> Result<()> {
    let named = |wanted: fn(&Verdict) -> bool| {
        let rows = rows.iter().filter(|row| wanted(&row.verdict));
        rows.map(|row| row.kernel.name).collect::<Vec<_>>()
    };
    let failed = named(|verdict| matches!(verdict, Verdict::Failed(_)));
    let skipped = named(|verdict| matches!(verdict, Verdict::Skipped(_)));
    println!(
        "test result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out",
        if failed.is_empty() { "ok" } else { "FAILED" },
        rows.len() - failed.len() - skipped.len(),
        failed.len(),
        skipped.len(),
    );
    if !failed.is_empty() {
        bail!("kernels that failed: {}", failed.join(", "));
    }
    if !skipped.is_empty() && workspace::is_ci() {
        bail!("kernels that were skipped, which CI does not allow: {}", skipped.join(", "));
    }
    Ok(())
}

fn test(kernel: &Kernel, program: &Path, logs: &Path, options: &Options) -> Row {
    let initramfs = logs.join("initramfs.cpio");
    let prepared = packages::image(kernel, &cache(), options.refresh).and_then(|image| {
        let modules = packages::modules(kernel, &image, &cache())?;
        initramfs::write(&initramfs, program, &modules)?;
        Ok(image)
    });
    let image = match prepared {
        Ok(image) => image,
        Err(error) => {
            process::say(format!("kernel {}: skipped: {error:#}", kernel.name));
            return Row::skipped(*kernel, format!("{error:#}"));
        }
    };
    process::say(format!("kernel {}: booting {}", kernel.name, image.version));
    let guest = Guest {
        image: &image.path,
        initramfs: &initramfs,
        log: logs.join(format!("{}.log", kernel.name)),
        time_limit: Duration::from_secs(options.timeout_s),
    };
    let mut console = guest.run();
    if console.as_ref().is_ok_and(|console| !console.booted) {
        // Nothing of ours has run by then: now and then the emulator itself breaks a kernel that starts.
        process::say(format!("kernel {}: did not reach init; once more", kernel.name));
        console = guest.run();
    }
    let row = Row::new(*kernel, image.version.clone(), console);
    if let Verdict::Failed(cause) = &row.verdict {
        process::say(format!("kernel {}: FAILED: {cause}", kernel.name));
        eprintln!("{}", guest::last_lines(&guest.log, 30));
        process::say(format!("the whole console is in {}", guest.log.display()));
    }
    row
}

/// Outside the repository, so that a clean checkout needs no new download.
fn cache() -> PathBuf {
    let home = || env::home_dir().unwrap_or_else(env::temp_dir).join(".cache");
    let base = env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty());
    base.map_or_else(home, PathBuf::from).join("balancer").join("kernels")
}

/// Compiles the smoke test without shared libraries, which the guests do not have.
fn smoke_program() -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    build::object()?;
    let mut cargo = workspace::cargo();
    cargo
        // For the named target only: procedural macros cannot be static.
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-Ctarget-feature=+crt-static -Cstrip=symbols",
        )
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args(["build", "--target", TARGET, "--package", workspace::TESTS_PACKAGE])
        .args(["--bin", "kernel-smoke"]);
    let executables = artifacts::build(&mut cargo)?;
    let smoke = executables.into_iter().find(|executable| executable.target == "kernel-smoke");
    Ok(smoke.context("cargo built no executable called kernel-smoke")?.path)
}
