//! How each mistake is mended.

use super::Cause;

// === impl Cause ===

impl Cause {
    /// How to mend it.
    pub fn hint(&self) -> String {
        match self {
            Self::Empty => {
                "begin with `version: 1`; `balancer-agent config --example` prints a whole file"
                    .into()
            }
            Self::SecondDocument => "remove the `---`, or what follows it".into(),
            Self::MergeKey => {
                "write the keys out, or set them for all services in `defaults`".into()
            }
            Self::AliasLoop => "write the value out".into(),
            Self::Syntax { .. } => {
                "see `balancer-agent config --example` for a file that is right".into()
            }
            Self::Kind { expected, .. } => format!("write {expected}"),
            Self::UnknownKey { similar: Some(similar), .. } => format!("did you mean `{similar}`?"),
            Self::UnknownKey { known, .. } => format!("known keys: {}", known.join(", ")),
            Self::RepeatedKey { .. } => "keep one of the two".into(),
            Self::MissingKey { example, .. } => format!("add `{example}`"),
            Self::Version { .. } => {
                "write `version: 1`, or run the build that the file is for".into()
            }
            Self::Range { min, max, .. } => format!("choose a number from {min} to {max}"),
            Self::WeightZero => {
                "to send no new connections to a backend, write `state: draining`".into()
            }
            Self::NotMultiple { number, of } => format!("write {}", number.next_multiple_of(*of)),
            Self::Word { .. } => "choose one of them".into(),
            Self::DurationUnit { number } => {
                format!("add the unit, such as `{number}s` or `{number}ms`")
            }
            Self::Duration { .. } => "write it as `500ms`, `20s`, `5m`, `3h` or `1h 30m`".into(),
            Self::DurationRange { .. } => "choose a duration in that range".into(),
            Self::DurationGrain { unit, .. } => format!("round it to {unit}"),
            Self::NodeName { .. } => "write the name that `kubectl get nodes` shows".into(),
            Self::PathRelative { .. } => "write the path from `/` on".into(),
            Self::TextTooLong { .. } => "write it shorter".into(),
            meaning => meaning.hint_on_meaning(),
        }
    }

    /// How to mend what is well-formed but makes no sense.
    fn hint_on_meaning(&self) -> String {
        match self {
            Self::Address { .. } => "write it as `10.96.0.10:50051` or `\"[fd00::1]:443\"`".into(),
            Self::AddressPort { text } if text.contains(':') => {
                format!("write `\"[{text}]:PORT\"`")
            }
            Self::AddressPort { text } => format!("write `{text}:PORT`"),
            Self::AddressName { .. } => {
                "write `{dns: NAME, port: PORT}` to have a name resolved".into()
            }
            Self::ServerName { .. } => "write it as `10.96.0.10` or `10.96.0.10:53`".into(),
            Self::ListenName { .. } => {
                "write one of the host's addresses, such as `127.0.0.1:9463`, or `0.0.0.0:9463` \
                 for all of them"
                    .into()
            }
            Self::PortZero => "choose a port from 1 to 65535".into(),
            Self::AddressKind { .. } => {
                "write the address of one host, or a virtual address".into()
            }
            Self::AddressMapped { plain, .. } => {
                format!("write `{plain}`; it serves IPv6 sockets that dial IPv4 as well")
            }
            Self::AddressZone { .. } => "use an address of global or unique-local scope".into(),
            Self::DnsName { .. } => "write a name such as `payments.internal`".into(),
            Self::OneOf { found: 0, .. } => "add one of them".into(),
            Self::OneOf { .. } => "keep one of them; write a second list item for another".into(),
            Self::Clash { fix, .. } => (*fix).into(),
            Self::Name(_) => {
                "choose a name of printable characters, such as `shop/payments`".into()
            }
            Self::NameTaken { .. } => "rename one of them, or merge the two".into(),
            Self::FrontendTaken { .. } => "keep it in one of them".into(),
            Self::BackendTwice { .. } => {
                "keep one of them; `weight` gives it a larger share".into()
            }
            Self::NoFrontend { .. } => {
                "add what clients dial, such as `frontends: [\"10.96.0.10:50051\"]`".into()
            }
            Self::NoBackend { .. } => {
                "add what serves, such as `backends: [\"10.1.0.1:50051\"]`, or remove the service"
                    .into()
            }
            Self::UntrackedCounts { .. } => {
                "remove `tracking: false`, or write `policy: round-robin`".into()
            }
            Self::TooMany { max, .. } => format!("keep {max} of them"),
            Self::Order { low, .. } => format!("lower `{low}`"),
            Self::Limit { key, .. } => format!("raise `{key}`"),
            // Every other cause has its hint in `hint`.
            _ => "see `balancer-agent config --example` for a file that is right".into(),
        }
    }
}
