//! The demo on Kubernetes: a real control plane, played nodes, and gRPC in real pods; without the
//! agent and with it.
//!
//! It states what it proved in numbers, and leaves nothing behind, however it ends.

mod acts;
mod stage;

use self::stage::Stage;
use super::{
    Outcome,
    claim::Claims,
    screen::{Screen, Style},
};
use crate::cluster::{Cluster, node::Node, version::Version};
use anyhow::Context;
use std::time::Instant;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// The node that has the agent and the clients.
const NODE: &str = "node-a";

/// Plays all acts.
///
/// # Errors
/// Names the step that failed, which is then no claim's fault.
pub fn run() -> anyhow::Result<Outcome> {
    let interrupted = interruption()?;
    let played = play(&interrupted);
    // Ctrl-C ends the pods' processes too, and what misses them complains before it is told.
    if *interrupted.borrow() { Ok(Outcome::Interrupted) } else { played }
}

fn play(interrupted: &watch::Receiver<bool>) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let version = Version::NEWEST;
    let mut screen = Screen::new();
    let title = screen.paint(Style::Bold, "balancer demo");
    screen.print(&[format!(
        "\n  {title}  Kubernetes {version}, {} gRPC pods, {} clients",
        acts::PODS,
        acts::CLIENTS
    )]);
    screen.say(
        "etcd, the API server and the controllers are started. They are the real ones; the two \
         nodes and their kubelets are played, and pods are network namespaces and cgroups.",
    );
    let nodes = vec![Node::new(NODE, "zone-a"), Node::new("node-b", "zone-b")];
    let stop = until_interrupted(interrupted.clone());
    let Some(cluster) = Cluster::start_unless(stop, "demo-k8s", version, nodes)? else {
        return Ok(Outcome::Interrupted);
    };
    let outcome = cluster.run(async {
        let mut stage = Stage::new(&cluster)?;
        let outcome = tokio::select! {
            outcome = all_acts(&mut stage, &mut screen) => outcome,
            () = until_interrupted(interrupted.clone()) => return Ok(Outcome::Interrupted),
        };
        if outcome.is_err() && !*interrupted.borrow() {
            screen.print(&stage.log());
        }
        outcome
    });
    drop(cluster);
    let outcome = outcome?;
    if outcome == Outcome::Interrupted {
        return Ok(outcome);
    }
    screen.say(&format!("Took {:.0} s; nothing is left behind.", started.elapsed().as_secs_f64()));
    Ok(outcome)
}

async fn all_acts(stage: &mut Stage<'_>, screen: &mut Screen) -> anyhow::Result<Outcome> {
    let mut claims = Claims::default();
    let without = acts::without(stage, screen).await.context("act 1")?;
    acts::with(stage, screen, &mut claims, &without).await.context("act 2")?;
    acts::scale_up(stage, screen, &mut claims).await.context("act 3")?;
    acts::roll(stage, screen, &mut claims, &without).await.context("act 4")?;
    acts::finish(stage, screen, &mut claims).await.context("the end")?;
    Ok(claims.conclude(screen))
}

/// Tells when a signal asks for the end. A thread of its own listens, as the cluster's runtime does
/// not exist while the cluster starts.
fn interruption() -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let signals: Result<Vec<_>, _> = {
        let _inside = runtime.enter();
        kinds.into_iter().map(signal).collect()
    };
    let mut signals = signals.context("listen for signals")?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let any = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
            futures_util::future::select_all(any).await;
            sender.send_replace(true);
            // Later ones change nothing, but must find the sender alive.
            std::future::pending::<()>().await;
        });
    });
    Ok(receiver)
}

async fn until_interrupted(mut interrupted: watch::Receiver<bool>) {
    if interrupted.wait_for(|is| *is).await.is_err() {
        // Nobody can tell any more.
        std::future::pending::<()>().await;
    }
}
