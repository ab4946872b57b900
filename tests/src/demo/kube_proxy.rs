//! What Kubernetes does without the balancer: kube-proxy's random pick for each connection.

use crate::world::run;
use anyhow::Context;
use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
};

const TABLE: &str = "balancer-demo-kube-proxy";

/// Rules like those of kube-proxy's nftables mode; removed when they are dropped.
pub struct KubeProxy {
    route: String,
}

impl KubeProxy {
    /// Translates `vip` to one of `backends`, at random for each connection. The rules file is
    /// written into `directory`.
    ///
    /// # Errors
    /// When `nft` is missing or the kernel refuses the rules; nothing of them is left then.
    pub fn start(
        vip: SocketAddrV4,
        backends: &[SocketAddr],
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let rules = directory.join("kube-proxy.nft");
        std::fs::write(&rules, ruleset(vip, backends)).context("write the rules")?;
        run("nft", &["-f", &rules.display().to_string()])?;
        let proxy = Self { route: format!("{}/32", vip.ip()) };
        // connect() looks for a route before the first packet meets the rules.
        run("ip", &["route", "add", &proxy.route, "dev", "lo"])?;
        Ok(proxy)
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        // Both vanish with the namespace in any case.
        let _ = run("ip", &["route", "del", &self.route, "dev", "lo"]);
        let _ = run("nft", &["delete", "table", "ip", TABLE]);
    }
}

/// The rules: `numgen random` is what kube-proxy's nftables mode picks with (KEP-3866).
fn ruleset(vip: SocketAddrV4, backends: &[SocketAddr]) -> String {
    let targets: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(number, backend)| format!("{number} : {} . {}", backend.ip(), backend.port()))
        .collect();
    let (ip, port): (&Ipv4Addr, u16) = (vip.ip(), vip.port());
    format!(
        "table ip {TABLE} {{\n  chain output {{\n    type nat hook output priority -100;\n    \
         ip daddr {ip} tcp dport {port} dnat to numgen random mod {} map {{ {} }}\n  }}\n}}\n",
        backends.len(),
        targets.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_every_backend_once() {
        let backends = ["10.1.0.1:50051", "10.1.0.2:50051"].map(|text| text.parse().unwrap());
        let rules = ruleset("10.96.0.10:80".parse().unwrap(), &backends);
        assert!(
            rules.contains(
                "ip daddr 10.96.0.10 tcp dport 80 dnat to numgen random mod 2 map \
                 { 0 : 10.1.0.1 . 50051, 1 : 10.1.0.2 . 50051 }"
            ),
            "{rules}"
        );
    }
}
