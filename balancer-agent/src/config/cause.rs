//! Every way in which a configuration can be wrong, each with its cause and its fix.
//!
//! It stands apart so that all messages can be read, and kept in one voice, in one place.

mod hint;

use crate::core::model::NameError;

/// What is wrong. `Display` is the cause, [`Cause::hint`] the fix.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Cause {
    /// It is no YAML, or more of it than is read.
    #[error("{message}")]
    Syntax {
        /// The parser's words.
        message: String,
    },
    /// A second YAML document.
    #[error("a second document begins here; a configuration is one")]
    SecondDocument,
    /// A merge key, which YAML 1.2 does not have.
    #[error("merge keys (`<<`) are not read")]
    MergeKey,
    /// An alias inside its own anchor.
    #[error("the alias stands inside what it refers to")]
    AliasLoop,
    /// Nothing in it.
    #[error("the document is empty")]
    Empty,
    /// A value of another kind is needed.
    #[error("expected {expected}, found {found}")]
    Kind {
        /// What is needed, with an example.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A text that names no Node.
    #[error("{found} is no name of a Kubernetes Node")]
    NodeName {
        /// What stands there.
        found: String,
    },
    /// A path that depends on where the agent was started.
    #[error("{found} is no absolute path")]
    PathRelative {
        /// What stands there.
        found: String,
    },
    /// A text that is longer than any that makes sense.
    #[error("`{text}` has more than {bytes_max} bytes")]
    TextTooLong {
        /// Its beginning.
        text: String,
        /// Most bytes allowed.
        bytes_max: usize,
    },
    /// No such key.
    #[error("there is no key `{key}` here")]
    UnknownKey {
        /// The key.
        key: String,
        /// One that looks like it.
        similar: Option<&'static str>,
        /// All that may stand there.
        known: &'static [&'static str],
    },
    /// A key stands twice in one mapping, or a value twice in one list.
    #[error("this stands here again; it was given first on line {first_line}")]
    RepeatedKey {
        /// Where the first stands.
        first_line: u32,
    },
    /// A needed key is missing.
    #[error("the key `{key}` is missing")]
    MissingKey {
        /// The key.
        key: &'static str,
        /// How to write it.
        example: &'static str,
    },
    /// A schema of another time.
    #[error("version {version} of the configuration is not known to this build")]
    Version {
        /// The version asked for.
        version: i64,
    },
    /// A number out of its range.
    #[error("{number} is out of range: from {min} to {max}")]
    Range {
        /// The number.
        number: i64,
        /// Smallest allowed.
        min: u32,
        /// Largest allowed.
        max: u32,
    },
    /// A weight of zero.
    #[error("a weight of 0 is out of range: from 1 to 1000")]
    WeightZero,
    /// A number that has to be a multiple of another.
    #[error("{number} is not a multiple of {of}")]
    NotMultiple {
        /// The number.
        number: u32,
        /// What it has to be a multiple of.
        of: u32,
    },
    /// A word that is none of a set.
    #[error("{found} is none of: {known}")]
    Word {
        /// What stands there.
        found: String,
        /// The set.
        known: String,
    },
    /// A duration without a unit.
    #[error("the duration {number} has no unit")]
    DurationUnit {
        /// The number as written.
        number: String,
    },
    /// A text that is no duration.
    #[error("`{text}` is no duration: {reason}")]
    Duration {
        /// The text.
        text: String,
        /// What the parser says.
        reason: String,
    },
    /// A duration out of its range.
    #[error("{text} is out of range: from {min} to {max}")]
    DurationRange {
        /// The duration as written.
        text: String,
        /// Shortest allowed.
        min: String,
        /// Longest allowed.
        max: String,
    },
    /// A duration that is finer than the kernel counts.
    #[error("{text} is not a whole number of {unit}")]
    DurationGrain {
        /// The duration as written.
        text: String,
        /// What the kernel counts in.
        unit: &'static str,
    },
    /// A text that is no address and port.
    #[error("`{text}` is no IP address with a port")]
    Address {
        /// The text.
        text: String,
    },
    /// An address without its port.
    #[error("`{text}` has no port")]
    AddressPort {
        /// The text.
        text: String,
    },
    /// A host name where an address belongs.
    #[error("`{text}` is a host name, not an IP address")]
    AddressName {
        /// The text.
        text: String,
    },
    /// A name where a DNS server's address belongs.
    #[error("`{text}` is no IP address, with which a DNS server is reached before names resolve")]
    ServerName {
        /// The text.
        text: String,
    },
    /// A name where an address to listen on belongs.
    #[error("`{text}` is no IP address to listen on")]
    ListenName {
        /// The text.
        text: String,
    },
    /// Port zero.
    #[error("port 0 cannot be dialled")]
    PortZero,
    /// An address that no TCP connection can go to.
    #[error("{address} is {what} address, to which no TCP connection can be made")]
    AddressKind {
        /// The address.
        address: String,
        /// Its kind with its article.
        what: &'static str,
    },
    /// An IPv4 address in IPv6 dress.
    #[error("{address} is an IPv4 address mapped into IPv6")]
    AddressMapped {
        /// The address.
        address: String,
        /// The same in IPv4.
        plain: String,
    },
    /// An IPv6 zone.
    #[error("`{text}` has a zone, which the kernel's records do not hold")]
    AddressZone {
        /// The text.
        text: String,
    },
    /// A text that is no DNS name.
    #[error("`{text}` is no DNS name: {reason}")]
    DnsName {
        /// The text.
        text: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// Not exactly one of the keys that say what an endpoint is.
    #[error("exactly one of {keys} is needed, found {found}")]
    OneOf {
        /// The keys.
        keys: &'static str,
        /// How many there are.
        found: usize,
    },
    /// A key that does not go with another.
    #[error("`{key}` does not go with `{with}`")]
    Clash {
        /// The key.
        key: &'static str,
        /// The other.
        with: &'static str,
        /// How to mend it.
        fix: &'static str,
    },
    /// A service name that cannot be.
    #[error("{0}")]
    Name(NameError),
    /// Two services of one name.
    #[error("the name `{name}` is taken by the service on line {first_line}")]
    NameTaken {
        /// The name.
        name: String,
        /// Where the first stands.
        first_line: u32,
    },
    /// A frontend that leads to two services.
    #[error(
        "the frontend {frontend} of service `{service}` is taken by service `{first_service}` on line {first_line}"
    )]
    FrontendTaken {
        /// The frontend.
        frontend: String,
        /// The second service.
        service: String,
        /// The first service.
        first_service: String,
        /// Where the first stands.
        first_line: u32,
    },
    /// A backend that stands twice in one service.
    #[error("the backend {backend} stands in this service already, on line {first_line}")]
    BackendTwice {
        /// The backend.
        backend: String,
        /// Where the first stands.
        first_line: u32,
    },
    /// A service that nobody can dial.
    #[error("service `{service}` has no frontend")]
    NoFrontend {
        /// The service.
        service: String,
    },
    /// A service that nobody serves.
    #[error("service `{service}` has no backend")]
    NoBackend {
        /// The service.
        service: String,
    },
    /// A policy without its counts.
    #[error("the policy {policy} counts connections, which `tracking: false` turns off")]
    UntrackedCounts {
        /// The policy.
        policy: &'static str,
    },
    /// A list that is too long.
    #[error("{count} items are more than the {max} that are used")]
    TooMany {
        /// How many there are.
        count: usize,
        /// Most allowed.
        max: usize,
    },
    /// A smallest value above the largest.
    #[error("`{low}` is longer than `{high}`")]
    Order {
        /// The key of the smaller.
        low: &'static str,
        /// The key of the larger.
        high: &'static str,
    },
    /// More of something than the maps hold.
    #[error("{count} {what} are more than the {max} that `{key}` leaves room for")]
    Limit {
        /// How many there are.
        count: usize,
        /// Of what.
        what: &'static str,
        /// Room.
        max: u32,
        /// The key that sets it.
        key: &'static str,
    },
}
