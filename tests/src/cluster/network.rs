//! The pods' network: a bridge in the world's namespace, and for each pod a namespace with a veth
//! and an address of each family.

use crate::world::run;
use anyhow::{Context, anyhow};
use nix::sched::{CloneFlags, unshare};
use std::{
    fs::File,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
};

/// The bridge's name, as the CNI project's own plugin calls it.
const BRIDGE: &str = "cni0";
/// Its link-layer address, made of its IPv4 address as the plugin does.
const BRIDGE_ADDRESS: &str = "0a:58:0a:f4:00:01";
/// The host's side of the pod network.
const GATEWAY: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 244, 0, 1), Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1));
/// Most pods over the life of a network: addresses are not given twice.
const PODS_MAX: u16 = 60_000;

/// The network of a world's pods.
pub struct Network {
    world: File,
    pods: AtomicU16,
}

/// A pod's end of it. The namespace is gone with this and the last process in it.
pub struct PodNetwork {
    namespace: File,
    host_side: String,
    /// Its addresses.
    pub addresses: (Ipv4Addr, Ipv6Addr),
}

impl Network {
    /// Makes the bridge in the calling thread's namespace.
    ///
    /// # Errors
    /// When `ip` refuses it.
    pub fn new() -> anyhow::Result<Self> {
        let world = own_namespace()?;
        // Without an address of its own a bridge takes the lowest of its ports', and so another one when a pod
        // comes or goes: neighbours would send to nobody until they ask anew.
        run("ip", &["link", "add", BRIDGE, "address", BRIDGE_ADDRESS, "type", "bridge"])?;
        run("ip", &["link", "set", BRIDGE, "up"])?;
        run("ip", &["address", "add", &format!("{}/16", GATEWAY.0), "dev", BRIDGE])?;
        run("ip", &["address", "add", &format!("{}/64", GATEWAY.1), "dev", BRIDGE, "nodad"])?;
        Ok(Self { world, pods: AtomicU16::new(0) })
    }

    /// Connects one more pod. To be called in the world's namespace.
    ///
    /// # Errors
    /// When the kernel or `ip` refuses it, or there are too many.
    pub fn connect(&self) -> anyhow::Result<PodNetwork> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed) + 2;
        anyhow::ensure!(number < PODS_MAX, "{PODS_MAX} pods were connected; no address is left");
        let [high, low] = number.to_be_bytes();
        let mut v6 = GATEWAY.1.segments();
        v6[7] = number;
        let addresses = (Ipv4Addr::new(10, 244, high, low), Ipv6Addr::from(v6));
        let host_side = format!("veth{number}");
        let world = path_of(&self.world);
        // Namespaces belong to threads: this one enters the new one, and ends in it.
        let made = std::thread::scope(|scope| {
            let inside = scope.spawn(|| enter_new(&host_side, &world, addresses));
            inside.join().map_err(|_| anyhow!("the thread in the pod's namespace panicked"))
        })?;
        let namespace = made.context("connect a pod")?;
        run("ip", &["link", "set", &host_side, "master", BRIDGE, "up"])?;
        Ok(PodNetwork { namespace, host_side, addresses })
    }

    /// The world's own namespace, as a process of any namespace can open it while this lives.
    pub fn world(&self) -> PathBuf {
        path_of(&self.world).into()
    }
}

impl PodNetwork {
    /// The namespace, as a process of any namespace can open it while this lives.
    pub fn path(&self) -> PathBuf {
        path_of(&self.namespace).into()
    }

    /// Removes its veth: packets to the pod are lost from now on. To be called in the world's
    /// namespace.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn cut(&self) -> anyhow::Result<()> {
        run("ip", &["link", "delete", &self.host_side])
    }
}

fn enter_new(host_side: &str, world: &str, (v4, v6): (Ipv4Addr, Ipv6Addr)) -> anyhow::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace")?;
    let peer = ["peer", "name", host_side, "netns", world];
    run("ip", &[&["link", "add", "eth0", "type", "veth"][..], &peer].concat())?;
    run("ip", &["link", "set", "lo", "up"])?;
    run("ip", &["address", "add", &format!("{v4}/16"), "dev", "eth0"])?;
    run("ip", &["address", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"])?;
    run("ip", &["link", "set", "eth0", "up"])?;
    run("ip", &["route", "add", "default", "via", &GATEWAY.0.to_string()])?;
    run("ip", &["-6", "route", "add", "default", "via", &GATEWAY.1.to_string()])?;
    own_namespace()
}

fn own_namespace() -> anyhow::Result<File> {
    File::open("/proc/thread-self/ns/net").context("open the own network namespace")
}

/// A name of an open file that other processes can open too.
fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}
