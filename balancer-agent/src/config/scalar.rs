//! Single values of the configuration: numbers, words, durations, addresses and DNS names. Pure.

use super::{
    cause::Cause,
    tree::{Node, Value, excerpt},
};
use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

/// The port of DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

fn kind(expected: &'static str, node: &Node<'_>) -> Cause {
    Cause::Kind { expected, found: node.found() }
}

/// Text.
pub(super) fn text<'n>(node: &'n Node<'_>) -> Result<&'n str, Cause> {
    node.text().ok_or_else(|| kind("a text, in quotes if it looks like a number", node))
}

/// A whole number in a range.
pub(super) fn number(node: &Node<'_>, range: RangeInclusive<u32>) -> Result<u32, Cause> {
    number_or(node, range, "a whole number")
}

/// A whole number in a range, where words that the caller has looked for may stand as well.
pub(super) fn number_or(
    node: &Node<'_>,
    range: RangeInclusive<u32>,
    expected: &'static str,
) -> Result<u32, Cause> {
    let Value::Integer(number) = node.value else {
        return Err(kind(expected, node));
    };
    u32::try_from(number).ok().filter(|number| range.contains(number)).ok_or(Cause::Range {
        number,
        min: *range.start(),
        max: *range.end(),
    })
}

/// `true` or `false`.
pub(super) fn boolean(node: &Node<'_>) -> Result<bool, Cause> {
    match node.value {
        Value::Bool(value) => Ok(value),
        _ => Err(kind("`true` or `false`", node)),
    }
}

/// One of a set of words.
pub(super) fn word<T: Copy>(
    node: &Node<'_>,
    set: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, Cause> {
    set.iter().copied().find(|item| node.text() == Some(name(*item))).ok_or_else(|| Cause::Word {
        found: node.found(),
        known: set.iter().map(|item| name(*item)).collect::<Vec<_>>().join(", "),
    })
}

/// A duration in a range.
pub(super) fn duration(
    node: &Node<'_>,
    range: RangeInclusive<Duration>,
) -> Result<Duration, Cause> {
    let written = match &node.value {
        Value::Text(written) => written,
        Value::Integer(number) => {
            return Err(Cause::DurationUnit { number: number.to_string() });
        }
        Value::Float(number) => {
            return Err(Cause::DurationUnit { number: number.to_string() });
        }
        _ => return Err(kind("a duration such as `20s`", node)),
    };
    if written.parse::<u64>().is_ok() {
        return Err(Cause::DurationUnit { number: written.to_string() });
    }
    let duration = humantime::parse_duration(written)
        .map_err(|error| Cause::Duration { text: excerpt(written), reason: error.to_string() })?;
    if !range.contains(&duration) {
        let show = |duration: &Duration| humantime::format_duration(*duration).to_string();
        return Err(Cause::DurationRange {
            text: excerpt(written),
            min: show(range.start()),
            max: show(range.end()),
        });
    }
    Ok(duration)
}

/// A duration of whole seconds, in seconds.
pub(super) fn seconds(node: &Node<'_>, range: RangeInclusive<u32>) -> Result<u32, Cause> {
    let bound = |s: &u32| Duration::from_secs(u64::from(*s));
    let duration = duration(node, bound(range.start())..=bound(range.end()))?;
    u32::try_from(duration.as_secs())
        .ok()
        .filter(|_| duration.subsec_nanos() == 0)
        .ok_or_else(|| grain(node, "seconds"))
}

/// A duration of whole milliseconds, in milliseconds.
pub(super) fn milliseconds(node: &Node<'_>, range: RangeInclusive<u32>) -> Result<u32, Cause> {
    let bound = |ms: &u32| Duration::from_millis(u64::from(*ms));
    let duration = duration(node, bound(range.start())..=bound(range.end()))?;
    u32::try_from(duration.as_millis())
        .ok()
        .filter(|_| duration.subsec_nanos().is_multiple_of(1_000_000))
        .ok_or_else(|| grain(node, "milliseconds"))
}

fn grain(node: &Node<'_>, unit: &'static str) -> Cause {
    Cause::DurationGrain { text: excerpt(node.text().unwrap_or_default()), unit }
}

/// A port that can be dialled.
pub(super) fn port(node: &Node<'_>) -> Result<u16, Cause> {
    if node.value == Value::Integer(0) {
        return Err(Cause::PortZero);
    }
    number(node, 1..=u32::from(u16::MAX))
        .and_then(|port| u16::try_from(port).map_err(|_| Cause::PortZero))
}

/// An address and port that TCP connections can go to.
pub(super) fn endpoint_address(node: &Node<'_>) -> Result<SocketAddr, Cause> {
    let written = node.text().ok_or_else(|| {
        kind("an address such as `10.96.0.10:50051` or `\"[fd00::1]:443\"`", node)
    })?;
    let short = || excerpt(written);
    if written.contains('%') {
        return Err(Cause::AddressZone { text: short() });
    }
    let address: SocketAddr = written.parse().map_err(|_| not_an_address(written))?;
    if address.port() == 0 {
        return Err(Cause::PortZero);
    }
    reachable(address.ip())?;
    Ok(address)
}

/// An address and port to listen on: one of the host's own, or all of them.
pub(super) fn listen_address(node: &Node<'_>) -> Result<SocketAddr, Cause> {
    let all = node.text().and_then(|text| text.parse::<SocketAddr>().ok());
    match all.filter(|address| address.ip().is_unspecified() && address.port() != 0) {
        Some(address) => Ok(address),
        None => endpoint_address(node).map_err(|cause| match cause {
            Cause::AddressName { text } => Cause::ListenName { text },
            other => other,
        }),
    }
}

/// Why a text is no address with a port.
fn not_an_address(written: &str) -> Cause {
    let text = excerpt(written);
    if written.parse::<IpAddr>().is_ok() {
        return Cause::AddressPort { text };
    }
    let host = written.rsplit_once(':').map_or(written, |(host, _)| host);
    let looks_like_a_name = host.chars().any(|letter| letter.is_ascii_alphabetic());
    if looks_like_a_name && check_dns_name(host, true).is_ok() {
        return Cause::AddressName { text };
    }
    Cause::Address { text }
}

fn reachable(address: IpAddr) -> Result<(), Cause> {
    if let IpAddr::V6(v6) = address
        && let Some(plain) = v6.to_ipv4_mapped()
    {
        return Err(Cause::AddressMapped {
            address: address.to_string(),
            plain: plain.to_string(),
        });
    }
    let what = match address {
        address if address.is_unspecified() => "the unspecified",
        address if address.is_multicast() => "a multicast",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast",
        _ => return Ok(()),
    };
    Err(Cause::AddressKind { address: address.to_string(), what })
}

/// The address of a DNS server; the port may be left out.
pub(super) fn dns_server(node: &Node<'_>) -> Result<SocketAddr, Cause> {
    match node.text().and_then(|text| text.parse::<IpAddr>().ok()) {
        Some(address) => reachable(address).map(|()| SocketAddr::new(address, DNS_PORT)),
        None => endpoint_address(node).map_err(|cause| match cause {
            Cause::AddressName { text } => Cause::ServerName { text },
            other => other,
        }),
    }
}

/// The name of a host, in lower case and without the trailing dot.
pub(super) fn host_name(node: &Node<'_>) -> Result<Arc<str>, Cause> {
    dns_name(node, false)
}

/// The name of a service, whose labels may have underscores (RFC 2782).
pub(super) fn srv_name(node: &Node<'_>) -> Result<Arc<str>, Cause> {
    dns_name(node, true)
}

fn dns_name(node: &Node<'_>, underscores: bool) -> Result<Arc<str>, Cause> {
    let written =
        node.text().ok_or_else(|| kind("a DNS name such as `payments.internal`", node))?;
    name_in(written, underscores)
}

/// The name of a host in a text, in lower case and without the trailing dot.
pub(super) fn host(written: &str) -> Result<Arc<str>, Cause> {
    name_in(written, false)
}

fn name_in(written: &str, underscores: bool) -> Result<Arc<str>, Cause> {
    let name = written.strip_suffix('.').unwrap_or(written);
    check_dns_name(name, underscores)
        .map_err(|reason| Cause::DnsName { text: excerpt(written), reason })?;
    Ok(name.to_ascii_lowercase().into())
}

fn check_dns_name(name: &str, underscores: bool) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.parse::<IpAddr>().is_ok() {
        return Err("it is an IP address, which goes to `address`");
    }
    // RFC 1035 section 3.1: 255 octets on the wire, which leaves 253 characters.
    if name.len() > 253 {
        return Err("it has more than 253 characters");
    }
    if !name.is_ascii() {
        return Err("letters beyond ASCII are written in Punycode (`xn--…`)");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err("two dots stand side by side, or one at its beginning");
        }
        // RFC 1035 section 2.3.4.
        if label.len() > 63 {
            return Err("a part between dots has more than 63 characters");
        }
        // RFC 1123 section 2.1 lets labels begin with a digit; RFC 952 forbids hyphens at the ends.
        if label.starts_with('-') || label.ends_with('-') {
            return Err("a part between dots begins or ends with `-`");
        }
        if label.contains('_') && !underscores {
            return Err("`_` stands in names of SRV records only");
        }
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
        if !label.chars().all(allowed) {
            return Err("only letters, digits, `-` and `.` may stand in it");
        }
    }
    Ok(())
}
