//! One round: pods with clients, servers, a path between, and moves as they are asked for.

use super::mover::{Lane, Mode};
use balancer_agent::datapath::http2::{self, Attachment};
use balancer_tests::{
    fixture::{Fixture, service::ServiceSpec},
    grpc::{load::Tally, process::PodProcess},
    interop::{
        path::{INTERFACES, Path, SERVER},
        program::{Implementation, Programs},
    },
};
use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
};

const PORT: u16 = 50_060;
/// Age at which servers of a native round send GOAWAY: the pace of moves.
const AGE_MS: u64 = 200;

/// What packets go through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    /// A pair of interfaces with all offloads.
    Offloads,
    /// The same without: every checksum is made and verified by the kernels, and segments are small.
    Plain,
    /// Without offloads, through a relay that loses, repeats and reorders so many of a hundred packets each.
    Bad { percent: f64, seed: u64 },
}

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    pub(crate) unary: u32,
    pub(crate) rate: u32,
    pub(crate) streams: u32,
    pub(crate) bytes_max: usize,
    pub(crate) renew: u64,
}

/// A round.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) v6: bool,
    pub(crate) way: Way,
    /// Clients with their servers.
    pub(crate) pairs: Vec<(Implementation, Implementation)>,
    pub(crate) calls: Calls,
    pub(crate) mode: Mode,
    pub(crate) moves: u64,
}

/// What came of a pair.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) pair: (Implementation, Implementation),
    /// Connections that were moved; in a native round, those that the server sent away.
    pub(crate) moves: u64,
    /// Connections that the client made.
    pub(crate) dials: u64,
    /// Connections of which the programs lost track.
    pub(crate) out_of_sync: u64,
    pub(crate) tally: Tally,
}

impl Outcome {
    /// Failures that tell of bytes that were not sent.
    pub(crate) fn mismatches(&self) -> u64 {
        let of = self.tally.failures.iter().filter(|(why, _)| why.contains("mismatch"));
        of.map(|(_, count)| count).sum()
    }

    /// Failures but for those that ran out of time.
    pub(crate) fn failed_in_time(&self) -> u64 {
        let late =
            |why: &str| why.to_lowercase().replace([' ', '_'], "").contains("deadlineexceeded");
        let of = self.tally.failures.iter().filter(|(why, _)| !late(why));
        of.map(|(_, count)| count).sum()
    }

    /// The same for a reader.
    pub(crate) fn line(&self) -> String {
        let ((client, server), tally) = (self.pair, &self.tally);
        let kinds: Vec<_> =
            tally.replies.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        format!(
            "{client} to {server}: {} moves, {} dials, {} out of sync, {}, {} failed {:?}",
            self.moves,
            self.dials,
            self.out_of_sync,
            kinds.join(", "),
            tally.failed(),
            tally.failures,
        )
    }
}

/// Plays a round in namespaces of its own.
pub(crate) fn play(programs: &Programs, round: &Round) -> Vec<Outcome> {
    let mut fixture = Fixture::new("interop").unwrap();
    http2::install(fixture.loaded(), fixture.world().pins()).unwrap();
    // One thread: the network namespace belongs to the thread that makes it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcomes = runtime.block_on(async {
        let path = match round.way {
            Way::Bad { .. } => Path::with_gap().unwrap(),
            Way::Offloads | Way::Plain => Path::direct().unwrap(),
        };
        if round.way != Way::Offloads {
            switch_offloads_off(programs, &path);
        }
        let log = fixture.world().runtime().join("relay.log");
        let relay = match round.way {
            Way::Bad { percent, seed } => {
                let mut words = programs.script("relay.py");
                words.extend(
                    [format!("--percent={percent}"), format!("--seed={seed}")].map(OsString::from),
                );
                let command = path.gap_command(&words).unwrap();
                Some(PodProcess::spawn("relay", command.into(), &log).await.unwrap())
            }
            Way::Offloads | Way::Plain => None,
        };
        let mut players = Vec::new();
        for number in 0..round.pairs.len() {
            players.push(Player::start(&mut fixture, programs, &path, round, number).await);
        }
        for player in &mut players {
            player.client.dial().await.unwrap();
        }
        for player in &mut players {
            player.client.connected().await.unwrap();
        }
        let mut lanes: Vec<Lane> = players.iter().map(Player::lane).collect();
        super::mover::keep_moving(&fixture, &mut lanes, round).await;
        let ends = players.into_iter().zip(lanes).map(|(player, lane)| player.end(&fixture, lane));
        let outcomes = futures_util::future::join_all(ends).await;
        let damaged = path.damaged().unwrap();
        let relays = relay.is_some();
        if let Some(relay) = relay {
            println!("relay: {:?}", relay.stop().await.unwrap().replies);
        }
        // A SYN that is repeated counts as an error, too.
        let expected = if relays { (damaged.0, 0) } else { (0, 0) };
        assert_eq!(damaged, expected, "segments with errors, and with wrong checksums");
        outcomes
    });
    println!("\n{}, {:?}, {:?}:", if round.v6 { "IPv6" } else { "IPv4" }, round.way, round.mode);
    for outcome in &outcomes {
        println!("  {}", outcome.line());
    }
    outcomes
}

fn switch_offloads_off(programs: &Programs, path: &Path) {
    let words = |interface: &str| {
        let mut words = programs.script("interop.py");
        words.extend(["offloads", interface, "off"].map(OsString::from));
        words
    };
    let world = words(INTERFACES.1);
    let mut outside = Command::new(&world[0]);
    outside.args(&world[1..]);
    for mut command in [path.pod.command(&words(INTERFACES.0)), outside] {
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "switch offloads off: {stderr}");
    }
}

/// A client and its server.
struct Player {
    pair: (Implementation, Implementation),
    client: PodProcess,
    server: PodProcess,
    service: u32,
    backend: SocketAddr,
}

impl Player {
    async fn start(
        fixture: &mut Fixture,
        programs: &Programs,
        path: &Path,
        round: &Round,
        number: usize,
    ) -> Self {
        let pair = round.pairs[number];
        let number = u16::try_from(number).unwrap();
        let (server_ip, frontend_ip): (IpAddr, IpAddr) = if round.v6 {
            (SERVER.1.into(), Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number + 1).into())
        } else {
            (SERVER.0.into(), Ipv4Addr::from_bits(0x0a60_0001 + u32::from(number)).into())
        };
        let backend = SocketAddr::new(server_ip, PORT + number);
        let frontend = SocketAddr::new(frontend_ip, 80);
        let log = fixture.world().runtime().join(format!("{number}.log"));
        let mut words = programs.words(pair.1);
        words.extend(["server".into(), format!("--listen={backend}")].map(OsString::from));
        match round.mode {
            Mode::Native => words.push(format!("--age-ms={AGE_MS}").into()),
            Mode::Frame => words.push(format!("--frame-ms={AGE_MS}").into()),
            Mode::Now | Mode::Calm | Mode::Quiet => {}
        }
        let mut command = tokio::process::Command::new(&words[0]);
        command.args(&words[1..]);
        let server = PodProcess::spawn(&format!("server {}", pair.1), command, &log).await.unwrap();
        let spec = ServiceSpec { http2: true, ..ServiceSpec::new(frontend, [backend]) };
        let service = fixture.serve(spec).unwrap().id;
        let pod = fixture.world().pod(&format!("pod-{number}")).unwrap();
        let Calls { unary, rate, streams, bytes_max, renew } = round.calls;
        let mut words = programs.words(pair.0);
        words.extend(
            [
                "client".into(),
                format!("--target={frontend}"),
                format!("--pod={}", pod.display()),
                format!("--unary={unary}"),
                format!("--rate={rate}"),
                format!("--streams={streams}"),
                format!("--bytes-max={bytes_max}"),
                format!("--seed={}", number + 1),
            ]
            .map(OsString::from),
        );
        if renew > 0 {
            words.push(format!("--renew={renew}").into());
        }
        let command = path.pod.command(&words).into();
        let client = PodProcess::spawn(&format!("client {}", pair.0), command, &log).await.unwrap();
        let taps = http2::tap_cgroup(fixture.world().pins(), &pod, Attachment::Best);
        assert!(taps.errors.is_empty() && taps.interfaces == 1, "{taps:?}");
        Self { pair, client, server, service, backend }
    }

    fn lane(&self) -> Lane {
        Lane::new(self.service, self.backend)
    }

    async fn end(self, fixture: &Fixture, lane: Lane) -> Outcome {
        let tally = self.client.stop().await.unwrap();
        self.server.stop().await.unwrap();
        let dials = fixture.stats(self.service, self.backend).unwrap().established;
        Outcome { pair: self.pair, moves: lane.moves, dials, out_of_sync: lane.out_of_sync, tally }
    }
}
