//! Build, test, lint, demo and benchmark commands of balancer: `cargo xtask --help`.

fn main() {}
