//! The committed numbers of verified instructions, and the guard against surprise growth. Pure, and without
//! dependencies: xtask compiles this file as well, to judge what the kernels of its matrix tell.

use std::{collections::BTreeMap, fmt::Write as _};

/// By how many percent a program may grow over its committed figure.
const GROWTH_PERCENT_MAX: u64 = 10;

/// What stands above the figures in their file.
const HEAD: &str = "\
# How many instructions each kernel's verifier went through: kernel, compiler, program, count.
# docs/kernels.md tells how they are compared, and how new ones are accepted.
";

/// What one kernel tells of the programs of one compiler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The kernel's release, as `uname -r` has it.
    pub kernel: String,
    /// The compiler.
    pub toolchain: String,
    /// Verified instructions by program; nothing before Linux 5.16.
    pub counts: BTreeMap<String, u32>,
}

/// What comes of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// No program grew by more than it may.
    Kept,
    /// There is nothing to compare with: why.
    Unguarded(String),
    /// What grew, and how to accept it.
    Grown(Vec<String>),
}

/// Committed counts by series of kernels, compiler and program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures(BTreeMap<(String, String, String), u32>);

impl Run {
    /// The first two numbers of the kernel's release: `6.1` of `6.1.0-56-cloud-amd64`.
    fn series(&self) -> String {
        let mut numbers = self.kernel.split(|c: char| !c.is_ascii_digit());
        let [major, minor] = [(); 2].map(|()| numbers.next().unwrap_or_default());
        format!("{major}.{minor}")
    }
}

impl Figures {
    /// Reads the file.
    ///
    /// # Errors
    /// Names the line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut figures = Self::default();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let [series, toolchain, program, count] = words[..] else {
                return Err(format!("line {}: `{line}` has not four words", index + 1));
            };
            let count =
                count.parse().map_err(|error| format!("line {}: `{count}`: {error}", index + 1))?;
            figures.0.insert((series.into(), toolchain.into(), program.into()), count);
        }
        Ok(figures)
    }

    /// Writes the file.
    pub fn render(&self) -> String {
        let mut text = HEAD.to_owned();
        for ((series, toolchain, program), count) in &self.0 {
            let _ = writeln!(text, "{series} {toolchain} {program} {count}");
        }
        text
    }

    /// Takes what a kernel tells as the new figures of its series and compiler.
    pub fn accept(&mut self, run: &Run) {
        let series = run.series();
        self.0.retain(|(kernel, toolchain, _), _| {
            run.counts.is_empty() || (kernel, toolchain) != (&series, &run.toolchain)
        });
        for (program, count) in &run.counts {
            self.0.insert((series.clone(), run.toolchain.clone(), program.clone()), *count);
        }
    }

    /// The committed count of a program.
    pub fn committed(&self, run: &Run, program: &str) -> Option<u32> {
        self.0.get(&(run.series(), run.toolchain.clone(), program.into())).copied()
    }

    /// Compares what a kernel tells with the figures; `how` says how new ones are accepted.
    pub fn judge(&self, run: &Run, how: &str) -> Judgement {
        let series = run.series();
        if run.counts.is_empty() {
            let why = "tells no counts of verified instructions (Linux 5.16 and newer do)";
            return Judgement::Unguarded(format!("Linux {series} {why}"));
        }
        let of_series = self.0.keys().filter(|(kernel, ..)| *kernel == series);
        let toolchains: Vec<&str> = of_series.map(|(_, toolchain, _)| toolchain.as_str()).collect();
        if !toolchains.contains(&run.toolchain.as_str()) {
            let why = match toolchains.first() {
                Some(other) => format!("they were taken with {other}, these programs are by"),
                None => "there are none for programs by".into(),
            };
            return Judgement::Unguarded(format!(
                "figures of Linux {series}: {why} {}; {how} commits some",
                run.toolchain
            ));
        }
        let grown: Vec<String> = run
            .counts
            .iter()
            .filter_map(|(program, is)| self.growth(run, program, *is))
            .map(|growth| {
                format!("{growth} on Linux {series} by {}; hint: {how} accepts it", run.toolchain)
            })
            .collect();
        if grown.is_empty() { Judgement::Kept } else { Judgement::Grown(grown) }
    }

    fn growth(&self, run: &Run, program: &str, is: u32) -> Option<String> {
        let Some(was) = self.committed(run, program) else {
            return Some(format!(
                "program `{program}` has no figure, and is {is} verified instructions"
            ));
        };
        let limit = u64::from(was) * (100 + GROWTH_PERCENT_MAX) / 100;
        (u64::from(is) > limit).then(|| {
            let grown = format!("program `{program}` grew by more than {GROWTH_PERCENT_MAX} %");
            format!("{grown}: was {was} verified instructions, is {is}")
        })
    }
}
