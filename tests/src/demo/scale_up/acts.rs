//! The three acts on live connections: they settle, two backends are added, one terminates.

use super::{
    super::{
        claim::Claims,
        screen::Screen,
        stage::{Stage, VIP},
    },
    moves::{Moves, moves, until_followed},
    shares::Shares,
};
use anyhow::Context;
use std::time::{Duration, Instant};

/// Backends at the beginning.
pub(super) const BACKENDS: u32 = 4;
/// Clients, a connection each.
pub(super) const CLIENTS: u32 = 32;
/// Backends that are added.
const ADDED: [&str; 2] = ["b5", "b6"];
/// The backend that terminates.
const TERMINATED: &str = "b2";
/// The part of all calls that the added backends must have together, once they have it.
const SHARE: (f64, f64) = (0.28, 0.38);
/// What they must have at the latest after so long.
const REACHED: (f64, Duration) = (0.30, Duration::from_secs(2));
/// Longest time from a backend's termination to its last call.
const LEFT_MS_MAX: u128 = 1_000;
/// Kinds of failures that are shown, if there are any.
const FAILURES_SHOWN: usize = 5;

/// Connections are made, and grow older than the age below which none is moved.
pub(super) async fn settle(
    stage: &mut Stage,
    screen: &mut Screen,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    screen.heading(&format!("Act 1 of 3 · {CLIENTS} long connections over {BACKENDS} backends"));
    screen.say(
        "Each client is a pod with a network namespace of its own, dials once, and goes on calling \
         on its one connection. No client, no server and no proxy knows of the agent.",
    );
    stage.files.configure(VIP, &stage.members(None))?;
    stage.agent = Some(stage.files.start().await?);
    let waiting = stage.start_clients(CLIENTS, &[VIP.into()]).await?;
    until_followed(stage, u64::from(CLIENTS)).await?;
    stage.dial(waiting).await?;
    let mut shares = Shares::new(stage);
    let from = Instant::now();
    shares.watch(stage, screen, 6.5, |_| "").await;
    let each: Vec<u64> = stage.servers.iter().map(|server| server.live().len() as u64).collect();
    let fair = u64::from(CLIENTS / BACKENDS);
    claims.check(
        screen,
        each.iter().all(|count| *count == fair),
        format!("{CLIENTS} connections are spread evenly: {each:?}"),
    );
    let begun = moves(stage).await?.begun;
    claims.check(
        screen,
        begun == 0 && shares.of(0, from, Instant::now()) > 0.0,
        format!("nothing changes, and nothing is moved: {begun} moves"),
    );
    Ok(())
}

/// Two backends are added; the clients know nothing of it.
pub(super) async fn scale_up(
    stage: &mut Stage,
    screen: &mut Screen,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    screen.heading(&format!("Act 2 of 3 · {BACKENDS} backends become {}", stage.servers.len() + 2));
    screen.say(
        "b5 and b6 are written into the configuration file. The kernel tells a few clients, in the \
         words of HTTP/2, to finish their calls and dial anew.",
    );
    for _ in ADDED {
        stage.add_server().await?;
    }
    let mut shares = Shares::new(stage);
    let changed = Instant::now();
    stage.files.configure(VIP, &stage.members(None))?;
    let new = |name: &str| if ADDED.contains(&name) { "new" } else { "" };
    shares.watch(stage, screen, 8.0, new).await;
    let first = BACKENDS as usize;
    let seconds = shares.by_second(first, changed);
    let reached =
        shares.of(first, changed + REACHED.1, changed + REACHED.1 + Duration::from_secs(1));
    let later: Vec<f64> = seconds.iter().copied().skip(3).collect();
    let percent = |part: f64| format!("{:.0}%", part * 100.0);
    let all: Vec<String> = seconds.iter().map(|part| percent(*part)).collect();
    claims.check(
        screen,
        reached >= REACHED.0,
        format!(
            "the new backends have {} of all calls after {} s, at least {} (fair: 33%); by second: {}",
            percent(reached),
            REACHED.1.as_secs(),
            percent(REACHED.0),
            all.join(" ")
        ),
    );
    claims.check(
        screen,
        later.len() >= 4 && later.iter().all(|part| (SHARE.0..=SHARE.1).contains(part)),
        format!("and stay between {} and {}", percent(SHARE.0), percent(SHARE.1)),
    );
    let Moves { begun, made } = moves(stage).await?;
    claims.check(
        screen,
        made == begun && (10..=12).contains(&begun),
        format!(
            "{made} of {begun} moves were made, for 10.7 connections in {CLIENTS} that have to"
        ),
    );
    Ok(())
}

/// One backend is about to terminate, as a pod with a deletion timestamp is.
pub(super) async fn terminate(
    stage: &mut Stage,
    screen: &mut Screen,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    screen.heading("Act 3 of 3 · a backend terminates");
    screen.say(&format!(
        "{TERMINATED} is marked `state: draining`. When no call reaches it any more, it ends.",
    ));
    let position = stage.servers.iter().position(|server| server.name() == TERMINATED);
    let position = position.context("find the backend")?;
    let mut shares = Shares::new(stage);
    let changed = Instant::now();
    stage.files.configure(VIP, &stage.members(Some(TERMINATED)))?;
    let draining = |name: &str| if name == TERMINATED { "draining" } else { "" };
    let server = &stage.servers[position];
    let (mut requests, mut last) = (server.requests(), changed);
    // Calls that a backend receives raise no event here.
    let mut look = tokio::time::interval(Duration::from_millis(5));
    while last.elapsed() < Duration::from_millis(700) && changed.elapsed() < Duration::from_secs(8)
    {
        look.tick().await;
        if server.requests() != requests {
            (requests, last) = (server.requests(), Instant::now());
        }
    }
    let left_ms = last.duration_since(changed).as_millis();
    shares.watch(stage, screen, 2.5, draining).await;
    claims.check(
        screen,
        left_ms <= LEFT_MS_MAX && stage.connections_to(TERMINATED) == 0,
        format!(
            "{TERMINATED} got its last call {left_ms} ms after it was marked, at most {LEFT_MS_MAX}; \
             {} connections are left",
            stage.connections_to(TERMINATED)
        ),
    );
    let ended = stage.servers.remove(position);
    ended.drain().await?;
    shares = Shares::new(stage);
    shares.watch(stage, screen, 2.0, |_| "").await;
    let each: Vec<u64> = stage.servers.iter().map(|server| server.live().len() as u64).collect();
    let (fewest, most) = (each.iter().min().unwrap_or(&0), each.iter().max().unwrap_or(&0));
    claims.check(
        screen,
        *fewest > 0 && most - fewest <= 2,
        format!("its connections are spread over the others: {each:?}"),
    );
    Ok(())
}

/// Ends the clients, which then tell what failed.
pub(super) async fn finish(
    stage: &mut Stage,
    screen: &mut Screen,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    stage.stop_clients().await?;
    let tally = &stage.tally;
    let calls = tally.replied() + tally.failed();
    let Moves { begun, made } = moves(stage).await?;
    claims.check(
        screen,
        calls > 0 && tally.failed() == 0,
        format!("{} of {calls} calls failed, through {made} moves of {begun}", tally.failed()),
    );
    for (status, number) in tally.failures.iter().take(FAILURES_SHOWN) {
        screen.say(&format!("{number} x {status}"));
    }
    Ok(())
}
