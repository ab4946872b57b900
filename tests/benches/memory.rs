//! What the agent holds: its resident memory, and that of the kernel's maps.

use balancer_agent::datapath::maps::Maps;
use balancer_tests::{
    bench::{
        self, Settings,
        agent::{Agent, configuration, map_bytes, service_id, wait_for},
        figure::{Figure, Unit},
    },
    world::World,
};
use std::process::ExitCode;

const ROUNDS: usize = 3;
/// Services, and what the agent may take, in megabytes.
const SIZES: [(usize, f64); 2] = [(10, 20.0), (10_000, 120.0)];
/// Reloads after which memory is looked at once more: what was let go must have gone back.
const RELOADS: u16 = 3;

fn main() -> ExitCode {
    bench::main("memory", run)
}

fn run(settings: Settings) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (services, bar_mb) in SIZES {
        let (mut started, mut reloaded, mut maps) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..settings.rounds(ROUNDS) {
            let world = World::new("bench-memory")?;
            let agent = Agent::start(&world, &configuration(services, 0))?;
            started.push(megabytes(agent.resident_bytes()?));
            // By the maps: to ask the agent would make it write all it knows into an answer.
            let kernel = Maps::open_loaded(world.pins())?;
            let id = service_id(&kernel, &format!("shop-{}", services - 1))?;
            let generation =
                || -> anyhow::Result<u32> { Ok(kernel.services.get(&id, 0)?.0.generation) };
            for version in 1..=RELOADS {
                let before = generation()?;
                agent.configure(&configuration(services, version))?;
                wait_for("the reload", || Ok((generation()? != before).then_some(())))?;
            }
            reloaded.push(megabytes(agent.resident_bytes()?));
            maps.push(megabytes(map_bytes(&world)?));
        }
        let figure = |what: &str, values: &[f64]| {
            let what = format!("{services} services: {what}");
            Figure::new(what, Unit::Megabytes, values)
        };
        figures.extend([
            figure("the agent, started", &started).at_most(bar_mb),
            figure("the agent, after three reloads", &reloaded).at_most(bar_mb),
            figure("the kernel's maps", &maps),
        ]);
    }
    Ok(figures)
}

#[expect(clippy::cast_precision_loss, reason = "bytes far below 2^52")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
