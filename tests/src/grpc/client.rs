//! One gRPC client: one HTTP/2 connection, dialled when it is made.

use super::echo::{ECHO, EchoReply, EchoRequest, WATCH};
use std::{net::SocketAddr, time::Duration};
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// Longest wait for a connection.
pub const DIAL_MS_MAX: u64 = 5_000;
/// Longest wait for a reply, so that a lost one is a failure and not a hang.
pub const REPLY_MS_MAX: u64 = 10_000;

/// A client. Clones share the connection.
#[derive(Clone)]
pub struct EchoClient {
    grpc: Grpc<Channel>,
}

impl EchoClient {
    /// Dials `address` and waits until the connection stands.
    ///
    /// # Errors
    /// When it cannot be made in [`DIAL_MS_MAX`].
    pub async fn connect(address: SocketAddr) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(Duration::from_millis(DIAL_MS_MAX))
            .timeout(Duration::from_millis(REPLY_MS_MAX));
        Ok(Self { grpc: Grpc::new(endpoint.connect().await?) })
    }

    /// One unary call.
    ///
    /// # Errors
    /// The status that the call ended with.
    pub async fn echo(&mut self, payload: Vec<u8>) -> Result<EchoReply, Status> {
        self.ready().await?;
        let request = Request::new(EchoRequest { payload, messages: 1 });
        let codec = ProstCodec::<EchoRequest, EchoReply>::default();
        let path = PathAndQuery::from_static(ECHO);
        Ok(self.grpc.unary(request, path, codec).await?.into_inner())
    }

    /// One server stream, read to its end.
    ///
    /// # Errors
    /// The status that the stream ended with.
    pub async fn watch(
        &mut self,
        payload: Vec<u8>,
        messages: u32,
    ) -> Result<Vec<EchoReply>, Status> {
        let mut stream = self.open(payload, messages).await?;
        let mut replies = Vec::new();
        while let Some(reply) = stream.message().await? {
            replies.push(reply);
        }
        Ok(replies)
    }

    /// One server stream, of which nothing is read yet: it stays open while there is more to come
    /// than HTTP/2's windows hold.
    ///
    /// # Errors
    /// The status that the call ended with.
    pub async fn open(
        &mut self,
        payload: Vec<u8>,
        messages: u32,
    ) -> Result<Streaming<EchoReply>, Status> {
        self.ready().await?;
        let request = Request::new(EchoRequest { payload, messages });
        let codec = ProstCodec::<EchoRequest, EchoReply>::default();
        let path = PathAndQuery::from_static(WATCH);
        Ok(self.grpc.server_streaming(request, path, codec).await?.into_inner())
    }

    /// One call of a method that no server has.
    ///
    /// # Errors
    /// The status that the call ended with.
    pub async fn refused(&mut self) -> Result<EchoReply, Status> {
        self.ready().await?;
        let request = Request::new(EchoRequest::default());
        let codec = ProstCodec::<EchoRequest, EchoReply>::default();
        let path = PathAndQuery::from_static("/balancer.demo.Echo/None");
        Ok(self.grpc.unary(request, path, codec).await?.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }
}
