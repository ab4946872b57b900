//! Messages of the service: bytes under a digest, and the codec that leaves them as they are.

use prost::bytes::{Buf, BufMut, Bytes};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// The paths of the methods: unary, server stream, client stream, both.
pub const UNARY: &str = "/balancer.interop.Bytes/Unary";
/// Repeats a chunk.
pub const DOWNLOAD: &str = "/balancer.interop.Bytes/Download";
/// Gives the digest of what came.
pub const UPLOAD: &str = "/balancer.interop.Bytes/Upload";
/// Echoes each message.
pub const CHAT: &str = "/balancer.interop.Bytes/Chat";
/// Largest message that is taken.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A message with this payload.
pub fn seal(payload: &[u8]) -> Bytes {
    if payload.is_empty() {
        return Bytes::new();
    }
    let digest = digest(&SHA256, payload);
    [digest.as_ref(), payload].concat().into()
}

/// The payload, if the bytes are those that were sent.
pub fn unseal(message: &Bytes) -> Option<Bytes> {
    if message.is_empty() {
        return Some(Bytes::new());
    }
    if message.len() <= SHA256_OUTPUT_LEN {
        return None;
    }
    let payload = message.slice(SHA256_OUTPUT_LEN..);
    (digest(&SHA256, &payload).as_ref() == &message[..SHA256_OUTPUT_LEN]).then_some(payload)
}

/// The payload of a message of a stream.
pub fn numbered(index: u32, rest: &[u8]) -> Vec<u8> {
    [&index.to_be_bytes(), rest].concat()
}

/// Leaves bytes as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found() {
        for payload in [&b""[..], b"x", &[7; 1_000]] {
            let message = seal(payload);
            assert_eq!(unseal(&message).unwrap(), payload);
            for at in 0..message.len() {
                let mut changed = message.to_vec();
                changed[at] ^= 1;
                assert_eq!(unseal(&changed.into()), None);
            }
        }
        assert_eq!(unseal(&seal(b"xy").slice(..33)), None, "cut off");
    }
}
