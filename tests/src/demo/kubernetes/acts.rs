//! The four acts on Kubernetes: without the agent, with it, more pods, a rolling update.

use super::stage::{HEADLESS, POLICY, SHOP, Stage};
use crate::{
    cluster::caller::Style as Dialling,
    demo::{
        claim::Claims,
        screen::Screen,
        spread::{Spread, share},
        table::PodRow,
    },
    grpc::load::Tally,
};
use serde_json::Value;
use std::collections::BTreeSet;

/// Pods at the beginning.
pub(super) const PODS: u32 = 2;
/// Pods from the third act on.
const PODS_MORE: u32 = 6;
/// Clients with a connection for each call.
pub(super) const CLIENTS: u32 = 4;
/// Clients with one long connection each, while all pods are replaced.
const CLIENTS_LONG: u32 = 2;
/// Largest coefficient of variation that is called even.
const VARIATION_MAX: f64 = 0.05;
/// Smallest part of their fair share that new pods must get.
const FAIRNESS_MIN: f64 = 0.9;
/// Smallest part of its fair share that any pod must get right after all were replaced.
const LEAST_MIN: f64 = 0.8;
/// Longest time from an endpoint's readiness to the first call that it answers.
const REACHED_MS_MAX: u128 = 2_000;
/// Kinds of failures that are shown, if there are any.
const FAILURES_SHOWN: usize = 5;

/// What came of the same without the agent.
pub(super) struct Without {
    spread: Spread,
    tally: Tally,
}

/// gRPC on Kubernetes as it is.
pub(super) async fn without(stage: &mut Stage<'_>, screen: &mut Screen) -> anyhow::Result<Without> {
    screen.heading("Act 1 of 4 · without the agent");
    screen.say(&format!(
        "{PODS} pods behind the headless Service `{HEADLESS}`. {CLIENTS} clients resolve its name \
         once, and dial for each call: gRPC's pick_first takes the first address that answers.",
    ));
    stage.deploy(PODS, CLIENTS).await?;
    let addresses = stage.resolve(PODS).await?;
    stage.call(CLIENTS, Dialling::Each, &addresses)?;
    stage.go_on(1).await?;
    let rows = stage.watch(screen, 2.5, &BTreeSet::new()).await?;
    screen.say("Then the Deployment is rolled: every pod is replaced, the first address is gone.");
    stage.roll("1").await?;
    stage.go_on(2).await?;
    let tally = stage.stop_callers().await?;
    let (failed, made) = (tally.failed(), tally.failed() + tally.replied());
    screen.say(&format!("{failed} of {made} calls failed, and all that would have followed."));
    Ok(Without { spread: requests(&rows), tally })
}

/// The same with the agent.
pub(super) async fn with(
    stage: &mut Stage<'_>,
    screen: &mut Screen,
    claims: &mut Claims,
    without: &Without,
) -> anyhow::Result<()> {
    screen.heading("Act 2 of 4 · with the agent");
    screen.say(&format!(
        "The agent of their node is started, with the rights that deploy/ gives it. The clients \
         are the same. The Services' annotations ask for balancing and for {POLICY}: the kernel \
         sends each connect() to the pod whose turn it is.",
    ));
    stage.start_agent().await?;
    let addresses = stage.resolve(PODS).await?;
    let pods = stage.pods().await?;
    stage.call(CLIENTS, Dialling::Each, &addresses)?;
    stage.until_reached(&pods).await?;
    let rows = stage.watch(screen, 2.5, &BTreeSet::new()).await?;
    let spread = requests(&rows);
    claims.check(
        screen,
        is_even(&spread),
        format!(
            "requests are even: variation {:.3}, at most {VARIATION_MAX}; without it {:.3}",
            spread.variation, without.spread.variation
        ),
    );
    let tally = stage.stop_callers().await?;
    no_failures(screen, claims, "while nothing changed", &tally);

    let address = stage.cluster_ip().await?;
    stage.call(CLIENTS, Dialling::Each, &[address])?;
    stage.go_on(20).await?;
    stage.until_reached(&pods).await?;
    let tally = stage.stop_callers().await?;
    let (replied, made) = (tally.replied(), tally.replied() + tally.failed());
    claims.check(
        screen,
        replied == made && tally.replies.len() == pods.len(),
        format!(
            "Service `{SHOP}`, balanced as its port is called grpc: {replied} of {made} calls to \
             {address} answered, by {} of {} pods",
            tally.replies.len(),
            pods.len()
        ),
    );
    show_failures(screen, &tally);
    Ok(())
}

/// More pods, while clients go on with the addresses of the first.
pub(super) async fn scale_up(
    stage: &mut Stage<'_>,
    screen: &mut Screen,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    screen.heading(&format!("Act 3 of 4 · {PODS} pods become {PODS_MORE}"));
    screen.say(&format!(
        "The clients know {PODS} addresses, and go on with them. The Deployment is scaled.",
    ));
    let known = stage.resolve(PODS).await?;
    let old = stage.pods().await?;
    stage.call(CLIENTS, Dialling::Each, &known)?;
    stage.go_on(10).await?;
    stage.scale(PODS_MORE).await?;
    stage.resolve(PODS_MORE).await?;
    let new: BTreeSet<String> = stage.pods().await?.difference(&old).cloned().collect();
    let reached_ms = stage.until_reached(&new).await?.as_millis();
    let rows = stage.watch(screen, 2.5, &new).await?;
    claims.check(
        screen,
        reached_ms <= REACHED_MS_MAX,
        format!(
            "all {} new pods had answered calls {reached_ms} ms after they were ready, at most \
             {REACHED_MS_MAX}",
            new.len()
        ),
    );
    let sum = |rows: &mut dyn Iterator<Item = &PodRow>| rows.map(|row| row.requests).sum();
    let own: u64 = sum(&mut rows.iter().filter(|row| new.contains(&row.name)));
    let own = share(own, sum(&mut rows.iter()));
    let fair = share(new.len() as u64, rows.len() as u64);
    claims.check(
        screen,
        own >= fair * FAIRNESS_MIN,
        format!(
            "they get {:.1}% of all calls (fair: {:.1}%, at least {:.1}%)",
            own * 100.0,
            fair * 100.0,
            fair * FAIRNESS_MIN * 100.0
        ),
    );
    let tally = stage.stop_callers().await?;
    no_failures(screen, claims, "while pods were added", &tally);
    Ok(())
}

/// Every pod is replaced, while clients go on with addresses that nobody has any more.
pub(super) async fn roll(
    stage: &mut Stage<'_>,
    screen: &mut Screen,
    claims: &mut Claims,
    without: &Without,
) -> anyhow::Result<()> {
    screen.heading("Act 4 of 4 · a rolling update, and clients with stale DNS");
    screen.say(&format!(
        "{CLIENTS} clients with a connection for each call and {CLIENTS_LONG} with long ones know \
         the {PODS_MORE} addresses of now, and never ask again. Every pod is replaced; servers \
         stop on SIGTERM at once, without a preStop hook.",
    ));
    let known = stage.resolve(PODS_MORE).await?;
    stage.call(CLIENTS, Dialling::Each, &known)?;
    stage.call(CLIENTS_LONG, Dialling::Long, &known)?;
    stage.go_on(20).await?;
    stage.roll("2").await?;
    let left = stage.resolve(PODS_MORE).await?.iter().filter(|it| known.contains(it)).count();
    let pods = stage.pods().await?;
    stage.until_reached(&pods).await?;
    stage.go_on(20).await?;
    let tally = stage.stop_callers().await?;
    let (failed, made) = (tally.failed(), tally.failed() + tally.replied());
    let (failed_without, made_without) =
        (without.tally.failed(), without.tally.failed() + without.tally.replied());
    claims.check(
        screen,
        failed == 0 && left == 0,
        format!(
            "{failed} of {made} calls failed, 0 expected, though {left} of {} known addresses are \
             left; without it {failed_without} of {made_without}",
            known.len()
        ),
    );
    show_failures(screen, &tally);
    // Without long connections, which the policy takes into account.
    stage.call(CLIENTS, Dialling::Each, &known)?;
    let rows = stage.watch(screen, 2.5, &pods).await?;
    let tally = stage.stop_callers().await?;
    let least = rows.iter().map(|row| row.requests).min().unwrap_or(0);
    let own = share(least, rows.iter().map(|row| row.requests).sum());
    let fair = share(1, rows.len() as u64);
    claims.check(
        screen,
        own >= fair * LEAST_MIN,
        format!(
            "each of the {} new pods serves: the least of them {:.1}% of the calls (fair: {:.1}%, \
             at least {:.1}%)",
            rows.len(),
            own * 100.0,
            fair * 100.0,
            fair * LEAST_MIN * 100.0
        ),
    );
    no_failures(screen, claims, "afterwards", &tally);
    Ok(())
}

/// What the agent says of itself after all that.
pub(super) async fn finish(
    stage: &mut Stage<'_>,
    screen: &mut Screen,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    let (healthy, text) = stage.status().await?;
    let status: Value = serde_json::from_str(&text).unwrap_or_default();
    let watches = find(&status, "watches").and_then(Value::as_array).cloned().unwrap_or_default();
    let faultless = watches.iter().filter(|watch| watch["errors"] == 0).count();
    claims.check(
        screen,
        healthy && !watches.is_empty() && faultless == watches.len(),
        format!(
            "the agent is {}, {faultless} of {} watches never failed under its own account",
            if healthy { "healthy" } else { "unhealthy; healthy expected" },
            watches.len()
        ),
    );
    if !healthy {
        screen.say(&text);
    }
    Ok(())
}

/// The first value of this key, however deep.
fn find<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Object(map) => {
            map.get(key).or_else(|| map.values().find_map(|value| find(value, key)))
        }
        _ => None,
    }
}

fn no_failures(screen: &mut Screen, claims: &mut Claims, when: &str, tally: &Tally) {
    let (failed, made) = (tally.failed(), tally.failed() + tally.replied());
    let text = format!("{failed} of {made} calls failed {when}, 0 expected");
    claims.check(screen, failed == 0, text);
    show_failures(screen, tally);
}

fn show_failures(screen: &mut Screen, tally: &Tally) {
    for (cause, number) in tally.failures.iter().take(FAILURES_SHOWN) {
        screen.say(&format!("{number} x {cause}"));
    }
}

fn is_even(spread: &Spread) -> bool {
    spread.mean > 0.0 && spread.variation <= VARIATION_MAX
}

fn requests(rows: &[PodRow]) -> Spread {
    Spread::of(rows.iter().map(|row| row.requests))
}
