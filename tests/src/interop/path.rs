//! The path between a pod and its servers: a pair of interfaces, or two with a relay between that treats
//! packets badly.

use crate::world::run;
use anyhow::{Context, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};
use std::{
    ffi::OsStr,
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    process::{Command, Stdio},
};

/// The servers' address of each family, on the world's side.
pub const SERVER: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 77, 0, 1), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));
/// The pod's.
const CLIENT: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 77, 0, 9), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 9));
/// The interface's name in the pod, and on the world's side.
pub const INTERFACES: (&str, &str) = ("eth0", "pod");

/// A network namespace. It is gone with this and the last process in it.
pub struct Namespace(File);

impl Namespace {
    /// A new one, in which nothing is up but loopback.
    ///
    /// # Errors
    /// When the kernel refuses it.
    fn new() -> anyhow::Result<Self> {
        // Namespaces belong to threads: this one enters the new one, and ends in it.
        let made = std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace")?;
                run("ip", &["link", "set", "lo", "up"])?;
                own_namespace()
            });
            inside.join().map_err(|_| anyhow!("the thread in a new namespace panicked"))
        })?;
        made.map(Self)
    }

    /// A command that runs in it.
    pub fn command(&self, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", path_of(&self.0))).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        text(self.command(words))
    }
}

/// A pod's namespace, and the way from there to the world.
pub struct Path {
    /// The pod's.
    pub pod: Namespace,
    relay: Option<Namespace>,
}

impl Path {
    /// Connects a pod with the calling thread's namespace by a pair of interfaces.
    ///
    /// # Errors
    /// When `ip` refuses it.
    pub fn direct() -> anyhow::Result<Self> {
        let path = Self { pod: Namespace::new()?, relay: None };
        path.pod.link("eth0", "pod", &own_namespace()?)?;
        path.up()?;
        Ok(path)
    }

    /// Connects them by two pairs, whose ends `near` (to the pod) and `far` are in a namespace of their own:
    /// nothing gets through until a program there carries it.
    ///
    /// # Errors
    /// When `ip` refuses it.
    pub fn with_gap() -> anyhow::Result<Self> {
        let (pod, relay) = (Namespace::new()?, Namespace::new()?);
        pod.link("eth0", "near", &relay.0)?;
        relay.link("far", "pod", &own_namespace()?)?;
        for end in ["near", "far"] {
            relay.run(&["sysctl", "-qw", &format!("net.ipv6.conf.{end}.disable_ipv6=1")])?;
            relay.run(&["ip", "link", "set", end, "up"])?;
        }
        let path = Self { pod, relay: Some(relay) };
        path.up()?;
        Ok(path)
    }

    /// A command that runs in the gap.
    ///
    /// # Errors
    /// When there is none.
    pub fn gap_command(&self, words: &[impl AsRef<OsStr>]) -> anyhow::Result<Command> {
        Ok(self.relay.as_ref().context("the path has no gap")?.command(words))
    }

    /// Segments that the pod's and the servers' kernels refused together: all of them, and those with a wrong
    /// checksum.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn damaged(&self) -> anyhow::Result<(u64, u64)> {
        let pod = damaged(&self.pod.run(&["cat", "/proc/net/snmp"])?)?;
        let file = "/proc/thread-self/net/snmp";
        let world = std::fs::read_to_string(file).with_context(|| format!("read {file}"))?;
        let world = damaged(&world)?;
        Ok((pod.0 + world.0, pod.1 + world.1))
    }

    fn up(&self) -> anyhow::Result<()> {
        let (pod, world) = INTERFACES;
        for (address, family) in
            [(CLIENT.0.to_string() + "/24", "-4"), (CLIENT.1.to_string() + "/64", "-6")]
        {
            self.pod.run(&with_family(family, &address, pod))?;
        }
        for (address, family) in
            [(SERVER.0.to_string() + "/24", "-4"), (SERVER.1.to_string() + "/64", "-6")]
        {
            let words = with_family(family, &address, world);
            run(words[0], &words[1..])?;
        }
        run("ip", &["link", "set", world, "up"])?;
        self.pod.run(&["ip", "link", "set", pod, "up"])?;
        Ok(())
    }
}

impl Namespace {
    fn link(&self, name: &str, peer: &str, to: &File) -> anyhow::Result<()> {
        let to = path_of(to);
        self.run(&[
            "ip", "link", "add", "name", name, "type", "veth", "peer", "name", peer, "netns", &to,
        ])?;
        Ok(())
    }
}

fn with_family<'a>(family: &'a str, address: &'a str, interface: &'a str) -> Vec<&'a str> {
    let mut words = vec!["ip", family, "address", "add", address, "dev", interface];
    if family == "-6" {
        // Without duplicate address detection, which would delay the first use.
        words.push("nodad");
    }
    words
}

fn own_namespace() -> anyhow::Result<File> {
    File::open("/proc/thread-self/ns/net").context("open the own network namespace")
}

/// A name of an open file that other processes can open too.
fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

fn text(mut command: Command) -> anyhow::Result<String> {
    let output: io::Result<_> = command.stdin(Stdio::null()).output();
    let shown = format!("{command:?}");
    let output = output.with_context(|| format!("run {shown}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown}: {}", stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// TCP's `InErrs` and `InCsumErrors`.
fn damaged(snmp: &str) -> anyhow::Result<(u64, u64)> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let names = lines.next().context("no names of TCP's counters")?;
    let values = lines.next().context("no values of TCP's counters")?;
    let value = |name: &str| {
        let mut both = names.split_whitespace().zip(values.split_whitespace());
        let (_, value) =
            both.find(|(other, _)| *other == name).with_context(|| format!("no {name}"))?;
        value.parse::<u64>().with_context(|| format!("read {name}"))
    };
    Ok((value("InErrs")?, value("InCsumErrors")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_read_by_their_names() {
        let text =
            "Ip: Forwarding\nIp: 1\nTcp: MaxConn InErrs OutRsts InCsumErrors\nTcp: -1 3 9 2\n";
        assert_eq!(damaged(text).unwrap(), (3, 2));
        assert!(damaged("Tcp: MaxConn\nTcp: 1\n").is_err());
    }
}
