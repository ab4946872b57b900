//! How long a changed backend takes to reach the kernel's maps, among few and among many services.

use anyhow::Context;
use balancer_agent::{config::Config, datapath::maps::Maps};
use balancer_tests::{
    bench::{
        self, Settings,
        agent::{Agent, configuration, service_id, wait_for},
        figure::{Figure, Unit},
    },
    world::World,
};
use std::{hint::black_box, process::ExitCode, time::Instant};

const ROUNDS: usize = 10;
const SIZES: [usize; 3] = [10, 1_000, 10_000];
/// For one change among 10,000 services.
const BAR_MS: f64 = 10.0;

fn main() -> ExitCode {
    bench::main("change", run)
}

fn run(settings: Settings) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for services in SIZES {
        figures.extend(one_size(services, settings.rounds(ROUNDS))?);
    }
    Ok(figures)
}

fn one_size(services: usize, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let world = World::new("bench-change")?;
    let agent = Agent::start(&world, &configuration(services, 0))?;
    let maps = Maps::open_loaded(world.pins())?;
    let id = service_id(&maps, &format!("shop-{}", services - 1))?;
    let generation = || -> anyhow::Result<u32> { Ok(maps.services.get(&id, 0)?.0.generation) };
    let (mut core, mut whole, mut parse) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let text = configuration(services, u16::try_from(round + 1)?);
        let before = generation()?;
        let changes = agent.status()?.work.changes;
        let renamed = agent.configure(&text)?;
        wait_for("the changed backend", || Ok((generation()? != before).then_some(())))?;
        whole.push(renamed.elapsed().as_secs_f64() * 1e3);
        // The last write follows the flip.
        let us = wait_for("the end of the change", || {
            let work = agent.status()?.work;
            Ok((work.changes > changes).then_some(work.latest_change_us))
        })?;
        #[expect(clippy::cast_precision_loss, reason = "microseconds far below 2^52")]
        core.push(us as f64 / 1e3);
        let started = Instant::now();
        black_box(Config::parse(&text, "balancer.yaml").context("parse the configuration")?);
        parse.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let figure = |what: &str, values: &[f64]| {
        let what = format!("{services} services: {what}");
        Figure::new(what, Unit::Milliseconds, values)
    };
    let core = figure("from the event to the last map write", &core);
    Ok(vec![
        if services == SIZES[2] { core.at_most(BAR_MS) } else { core },
        figure("from the file's rename to the changed map", &whole),
        figure("of which parsing the file, alone", &parse),
    ])
}
