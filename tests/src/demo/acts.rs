//! The five acts: without the balancer, with it, a backend added, one drained, the agent killed.

use super::{
    claim::Claims,
    kernel::Kernel,
    kube_proxy::KubeProxy,
    screen::Screen,
    spread::{Spread, share},
    stage::{Stage, VIP},
    table::Row,
};
use crate::grpc::server::EchoServer;
use std::{net::SocketAddr, time::Instant};

/// Backends at the beginning.
pub const BACKENDS: u32 = 4;
/// Clients at the beginning.
pub const CLIENTS: u32 = 32;
/// Clients that come later, in each of the last three acts.
const CLIENTS_MORE: u32 = 8;
/// Largest coefficient of variation that is called even.
const VARIATION_MAX: f64 = 0.02;
/// Smallest part of its fair share that a new backend must get.
const FAIRNESS_MIN: f64 = 0.9;
/// Longest time from a change of the file to the first connection that obeys it.
const CHANGE_MS_MAX: u128 = 2_000;

/// Kinds of failures that are shown, if there are any.
const FAILURES_SHOWN: usize = 5;

const ADDED: &str = "b5";
const DRAINED: &str = "b2";
const NOBODY: (&str, &str) = ("", "");

/// Kubernetes as it is: a random backend for each connection.
///
/// # Errors
/// Names the step that failed.
pub async fn without(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<Spread> {
    screen.heading("Act 1 of 5 · without the balancer");
    let backends: Vec<SocketAddr> = stage.servers.iter().map(EchoServer::address).collect();
    let proxy = KubeProxy::start(VIP, &backends, stage.world.runtime());
    let targets = match &proxy {
        Ok(_) => {
            screen.say(
                "kube-proxy picks a random backend for each connection; nftables does so here, \
                 by the same rule. gRPC then keeps to its connection.",
            );
            vec![SocketAddr::from(VIP)]
        }
        Err(error) => {
            screen.say(&format!(
                "kube-proxy picks a random backend for each connection. nftables is not usable \
                 here ({error:#}), so each client is given a random backend to dial."
            ));
            let random = |_| backends[rand::random_range(0..backends.len())];
            (0..CLIENTS).map(random).collect()
        }
    };
    stage.add_clients(CLIENTS, &targets).await?;
    let rows = stage.watch(screen, 3.5, NOBODY).await;
    stage.stop_clients().await?;
    Ok(requests(&rows))
}

/// The same clients with the balancer.
///
/// # Errors
/// Names the step that failed.
pub async fn with(
    stage: &mut Stage,
    screen: &mut Screen,
    claims: &mut Claims,
    without: Spread,
) -> anyhow::Result<()> {
    screen.heading("Act 2 of 5 · with the balancer");
    screen.say(
        "The agent is started; the same clients dial the same address. The kernel sends each \
         connect() to the backend with the fewest connections. There is no proxy.",
    );
    stage.files.configure(VIP, &stage.members(None))?;
    stage.agent = Some(stage.files.start().await?);
    stage.add_clients(CLIENTS, &[VIP.into()]).await?;
    let rows = stage.watch(screen, 3.5, NOBODY).await;
    let spread = Spread::of(rows.iter().map(|row| row.connections));
    claims.check(
        screen,
        spread.mean > 0.0 && spread.variation <= VARIATION_MAX,
        format!("{CLIENTS} connections are spread evenly: {}", connections(&rows)),
    );
    let spread = requests(&rows);
    claims.check(
        screen,
        spread.mean > 0.0 && spread.variation <= VARIATION_MAX,
        format!(
            "requests are even: variation {:.3}, at most {VARIATION_MAX}; without it {:.3}",
            spread.variation, without.variation
        ),
    );
    Ok(())
}

/// A backend is added while all clients run.
///
/// # Errors
/// Names the step that failed.
pub async fn scale_up(
    stage: &mut Stage,
    screen: &mut Screen,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    screen.heading("Act 3 of 5 · a backend is added");
    screen.say(&format!(
        "{ADDED} is written into the configuration file. Then {CLIENTS_MORE} new clients dial.",
    ));
    stage.add_server().await?;
    let mut probe = stage.add_probe(ADDED).await?;
    probe.dial().await?;
    let changed = Instant::now();
    stage.files.configure(VIP, &stage.members(None))?;
    probe.reached().await?;
    let reached_ms = changed.elapsed().as_millis();
    let reached = stage.add_clients(CLIENTS_MORE, &[VIP.into()]).await?;
    let rows = stage.watch(screen, 2.5, (ADDED, "new")).await;
    claims.check(
        screen,
        reached_ms <= CHANGE_MS_MAX,
        format!("the first connection reached {ADDED} {reached_ms} ms after the file changed"),
    );
    let new = reached.iter().filter(|backend| *backend == ADDED).count();
    let total: u64 = rows.iter().map(|row| row.connections).sum();
    let own = share(stage.connections_to(ADDED), total);
    let fair = share(1, rows.len() as u64);
    claims.check(
        screen,
        own >= fair * FAIRNESS_MIN,
        format!(
            "{ADDED} got {new} of {CLIENTS_MORE} new connections: {:.1}% of all (fair: {:.1}%)",
            own * 100.0,
            fair * 100.0
        ),
    );
    Ok(())
}

/// A backend is drained while all clients run.
///
/// # Errors
/// Names the step that failed.
pub async fn drain(
    stage: &mut Stage,
    screen: &mut Screen,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    screen.heading("Act 4 of 5 · a backend is drained");
    screen.say(&format!(
        "{DRAINED} is marked `state: draining` in the file. Then {CLIENTS_MORE} new clients dial.",
    ));
    let before = stage.connections();
    let kernel = Kernel::open(&stage.world)?;
    let drained = stage.members(Some(DRAINED));
    let changed = Instant::now();
    stage.files.configure(VIP, &drained)?;
    kernel.until_not_picked(&drained).await?;
    let obeyed_ms = changed.elapsed().as_millis();
    let reached = stage.add_clients(CLIENTS_MORE, &[VIP.into()]).await?;
    stage.watch(screen, 2.5, (DRAINED, "draining")).await;
    let wrong = reached.iter().filter(|backend| *backend == DRAINED).count();
    claims.check(
        screen,
        wrong == 0 && reached.len() == CLIENTS_MORE as usize && obeyed_ms <= CHANGE_MS_MAX,
        format!(
            "draining was in force after {obeyed_ms} ms; {wrong} of {CLIENTS_MORE} new \
             connections went to {DRAINED}"
        ),
    );
    let kept = stage.connections_to(DRAINED);
    let lost = before.difference(&stage.connections()).count();
    claims.check(
        screen,
        lost == 0 && kept > 0,
        format!(
            "its {kept} connections stay and are served; {lost} of {} in all were lost",
            before.len()
        ),
    );
    Ok(())
}

/// The agent is killed under load, and started again.
///
/// # Errors
/// Names the step that failed.
pub async fn kill_and_restart(
    stage: &mut Stage,
    screen: &mut Screen,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    screen.heading("Act 5 of 5 · the agent is killed, and started again");
    screen.say(&format!(
        "SIGKILL under load, then {CLIENTS_MORE} new clients dial while there is no agent.",
    ));
    let before = stage.connections();
    if let Some(agent) = stage.agent.take() {
        agent.kill().await?;
    }
    stage.add_clients(CLIENTS_MORE, &[VIP.into()]).await?;
    let rows = stage.watch(screen, 2.5, (DRAINED, "draining")).await;
    let active: Vec<Row> = rows.into_iter().filter(|row| row.name != DRAINED).collect();
    let spread = Spread::of(active.iter().map(|row| row.connections));
    let drained: u64 = before.iter().filter(|(name, _)| name == DRAINED).count() as u64;
    claims.check(
        screen,
        spread.variation <= VARIATION_MAX && stage.connections_to(DRAINED) == drained,
        format!(
            "with no agent, connections stay even: {} where not draining",
            connections(&active)
        ),
    );
    restart(stage, screen, claims).await?;
    let lost = before.difference(&stage.connections()).count();
    claims.check(
        screen,
        lost == 0,
        format!("{lost} of {} connections were lost by the kill and the restart", before.len()),
    );
    Ok(())
}

async fn restart(
    stage: &mut Stage,
    screen: &mut Screen,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    let started = Instant::now();
    stage.agent = Some(stage.files.start().await?);
    let ready_ms = started.elapsed().as_millis();
    let (healthy, status) = stage.files.ask(&["status", "--output", "json"]).await?;
    let counted = Kernel::open(&stage.world)?.connections()?;
    let live = stage.connections().len();
    claims.check(
        screen,
        healthy && counted == live as u64,
        format!(
            "new agent in {ready_ms} ms: `status` {}, it counts {counted} connections of {live}",
            if healthy { "healthy" } else { "unhealthy" },
        ),
    );
    if !healthy {
        screen.say(&status);
    }
    Ok(())
}

/// Ends the clients, which then tell what failed.
///
/// # Errors
/// When one does not end by itself.
pub async fn finish(
    stage: &mut Stage,
    screen: &mut Screen,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    stage.stop_clients().await?;
    let tally = &stage.tally;
    let made = tally.replied() + tally.failed();
    claims.check(
        screen,
        made > 0 && tally.failed() == 0,
        format!("{} of {made} RPCs failed in all acts together", tally.failed()),
    );
    for (status, number) in tally.failures.iter().take(FAILURES_SHOWN) {
        screen.say(&format!("{number} x {status}"));
    }
    Ok(())
}

fn connections(rows: &[Row]) -> String {
    rows.iter().map(|row| row.connections.to_string()).collect::<Vec<_>>().join(", ")
}

fn requests(rows: &[Row]) -> Spread {
    Spread::of(rows.iter().map(|row| row.requests))
}
