//! `mount`: bpffs for the pins, each time in mount namespaces of the test's own.

use super::agent::Outcome;
use balancer_tests::{agent::binary, capability};
use std::process::{Command, Stdio};

/// Runs a script in a mount namespace of its own, in which a plain directory hides bpffs and shares
/// its mounts with namespaces that are made from it. `$AGENT` is the agent's binary.
fn on_a_node_without_bpffs(script: &str) -> Outcome {
    let hide = "mount -t tmpfs tmpfs /sys/fs/bpf && mount --make-shared /sys/fs/bpf";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-euc", &format!("{hide}\n{script}")])
        .env("AGENT", binary().unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let outcome = Outcome::try_from(output).unwrap();
    println!("{script}\n{}{}exit {}\n", outcome.stdout, outcome.stderr, outcome.code);
    outcome
}

/// What kind of file system a place is on.
const KIND: &str = "stat --file-system --format %T /sys/fs/bpf";

#[test]
fn bpffs_is_mounted_once() {
    if !capability::can_load_ebpf() {
        return;
    }
    let mounts = "grep -c ' /sys/fs/bpf ' /proc/self/mounts";
    let outcome = on_a_node_without_bpffs(&format!(
        "before=$({mounts})\n{KIND}\n$AGENT mount\n{KIND}\n$AGENT mount\n\
         $AGENT mount --output json\necho $(($({mounts}) - before))\nmkdir /sys/fs/bpf/balancer"
    ));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let lines: Vec<_> = outcome.stdout.lines().map(str::trim).collect();
    let expected = [
        "tmpfs",
        "bpffs was mounted",
        "bpf_fs",
        "bpffs was mounted before",
        "{",
        "\"mounted\": false",
        "}",
        "1",
    ];
    assert_eq!(lines, expected);
}

/// The init container of the DaemonSet: what it mounts must be there on the node when it has ended,
/// and in the agent's container, whether that was made before or after.
#[test]
fn what_an_init_container_mounts_outlives_it() {
    if !capability::can_load_ebpf() {
        return;
    }
    let bidirectional = "unshare --mount --propagation unchanged";
    let host_to_container = "unshare --mount --propagation slave";
    let outcome = on_a_node_without_bpffs(&format!(
        "{bidirectional} $AGENT mount\n{KIND}\n{host_to_container} {KIND}\n\
         {host_to_container} $AGENT mount"
    ));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines, ["bpffs was mounted", "bpf_fs", "bpf_fs", "bpffs was mounted before"]);

    // As a container without propagation would have it: the node never sees the mount.
    let private = "unshare --mount --propagation private";
    let outcome = on_a_node_without_bpffs(&format!("{private} $AGENT mount\n{KIND}"));
    assert_eq!(outcome.stdout.lines().collect::<Vec<_>>(), ["bpffs was mounted", "tmpfs"]);
}

#[test]
fn what_cannot_be_mounted_is_named_with_its_fix() {
    if !capability::can_load_ebpf() {
        return;
    }
    let without = "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin";
    for (command, words) in [
        (format!("{without} $AGENT mount"), ["/sys/fs/bpf/balancer", "EPERM", "mount -t bpf"]),
        (
            "$AGENT mount --pin-root /var/lib/balancer".to_owned(),
            ["/var/lib/balancer", "no BPF file system", "--pin-root below /sys/fs/bpf"],
        ),
    ] {
        let outcome = on_a_node_without_bpffs(&format!("{command} || echo $?\n{KIND}"));
        assert_eq!(outcome.stdout, "2\ntmpfs\n", "{command}");
        let stderr = outcome.stderr;
        assert!(words.iter().all(|word| stderr.contains(word)), "{command}: {stderr}");
        assert!(stderr.contains("hint: "), "{command}: {stderr}");
    }
}
