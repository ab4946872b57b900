//! Why the kernel programs did what they did: append-only codes that index the `REASONS` map.

/// Room in the `REASONS` map.
pub const REASONS_MAX: usize = 64;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $effect:ident;)+) => {
        /// The outcome of one run of a kernel program.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[must_use]
        pub enum Reason {
            $($(#[$doc])* $variant = $code,)+
        }

        impl Reason {
            /// Every reason, in the order of its code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name that commands, metrics and documentation use.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What the reason meant for the connection.
            pub const fn effect(self) -> Effect {
                match self { $(Self::$variant => Effect::$effect,)+ }
            }

            /// The reason with this code, if there is one.
            pub const fn from_code(code: u32) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

/// What an outcome meant for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The destination was rewritten to a backend.
    Balanced,
    /// The destination was left as the application asked.
    Untouched,
    /// A tracked connection changed its state.
    Observed,
}

reasons! {
    /// The destination is no declared frontend.
    NotFrontend = 0, "not-frontend", Untouched;
    /// Not a TCP stream socket.
    NotTcp = 1, "not-tcp", Untouched;
    /// Sent to the backend that the service's policy chose.
    Picked = 2, "picked", Balanced;
    /// Sent to the backend that the pod used before (session affinity).
    AffinityKept = 3, "affinity-kept", Balanced;
    /// The frontend leads to a service that is not there (removed at this very moment).
    ServiceMissing = 4, "service-missing", Untouched;
    /// The service has no backend that takes new connections.
    NoBackend = 5, "no-backend", Untouched;
    /// An IPv4 socket cannot reach the service's IPv6 backends.
    FamilyMismatch = 6, "family-mismatch", Untouched;
    /// The slot led to no usable backend.
    BackendMissing = 7, "backend-missing", Untouched;
    /// The backend set changed several times while one was being picked.
    GenerationRaced = 8, "generation-raced", Untouched;
    /// The table of tracked connections is full.
    FlowTableFull = 9, "flow-table-full", Untouched;
    /// A tracked connection was established.
    Established = 10, "established", Observed;
    /// An established connection was closed by its client.
    Closed = 11, "closed", Observed;
    /// An established connection ended by a reset, a time-out or an abort.
    Reset = 12, "reset", Observed;
    /// A connection attempt was refused.
    Refused = 13, "refused", Observed;
    /// A connection attempt timed out.
    TimedOut = 14, "timed-out", Observed;
    /// The client gave a connection attempt up.
    Abandoned = 15, "abandoned", Observed;
    /// A socket that had failed to connect was used again.
    Redialled = 16, "redialled", Observed;
    /// The kernel refused a socket option of the service.
    SocketOptionRefused = 17, "socket-option-refused", Observed;
    /// `getpeername()` was answered with the frontend that was dialled.
    PeernameRestored = 18, "peername-restored", Observed;
    /// A segment of a tracked connection was sent again.
    Retransmitted = 19, "retransmitted", Observed;
    /// The client's pod, or its namespace, asked not to be balanced.
    PodOptedOut = 20, "pod-opted-out", Untouched;
    /// A service mesh's proxy runs in the client's pod, and balances by itself.
    MeshProxy = 21, "mesh-proxy", Untouched;
    /// The policy's choice is ejected: sent to the next backend of the schedule that is not.
    EjectedPassedOver = 22, "ejected-passed-over", Balanced;
    /// A backend was ejected: a connection attempt failed, or it ended a connection by itself.
    Ejected = 23, "ejected", Observed;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_dense_and_names_unique() {
        let mut names = std::collections::BTreeSet::new();
        for (code, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, code);
            assert_eq!(Reason::from_code(*reason as u32), Some(*reason));
            assert!(names.insert(reason.name()), "{} stands twice", reason.name());
        }
        assert!(Reason::ALL.len() <= REASONS_MAX);
        assert_eq!(Reason::from_code(u32::MAX), None);
    }
}
