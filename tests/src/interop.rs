//! A service of bytes that clients and servers of several gRPC implementations speak: tonic here, grpcio and
//! grpc-go in `tests/interop/`.
//!
//! A message is empty, or a SHA-256 and what it is of. Methods are `Unary` and `Chat`, which echo,
//! `Download`, which repeats a chunk with numbers before it, and `Upload`, which gives the digest of all that came.
//! Clients compare all bytes; servers end a call with DATA_LOSS if a digest is wrong. Processes speak as
//! [`crate::grpc::pod`] tells.

pub mod client;
pub mod frame;
pub mod message;
pub mod path;
pub mod program;
pub mod server;
