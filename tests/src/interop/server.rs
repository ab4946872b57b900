//! tonic's side as a server.

use super::{
    frame::Framed,
    message::{CHAT, DOWNLOAD, MESSAGE_BYTES_MAX, RawCodec, UNARY, UPLOAD, numbered, seal, unseal},
};
use crate::grpc::connection::{Counters, Incoming};
use anyhow::Context as _;
use futures_util::{Stream, StreamExt as _, stream};
use prost::bytes::Bytes;
use ring::digest::{Context as Digest, SHA256};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle, time};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{BoxFuture, BoxStream, Service, http},
    server::{
        ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService,
        UnaryService,
    },
    transport::Server,
};

/// Listens, and serves until the task is aborted. When connections are as old as `age`, tonic sends them away; when
/// as old as `frame`, one GOAWAY stands behind its bytes, and tonic does not know.
///
/// # Errors
/// When the address is not there or taken.
pub async fn serve(
    listen: SocketAddr,
    age: Option<Duration>,
    frame: Option<Duration>,
) -> anyhow::Result<JoinHandle<Result<(), tonic::transport::Error>>> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("listen on {listen}"))?;
    let incoming = Incoming::new(listener, Arc::new(Counters::default()))
        .map(move |connection| connection.map(|connection| Framed::new(connection, frame)));
    let mut server = Server::builder();
    if let Some(age) = age {
        server = server.max_connection_age(age);
    }
    Ok(tokio::spawn(server.add_service(BytesService).serve_with_incoming(incoming)))
}

#[derive(Clone, Copy)]
struct BytesService;

impl NamedService for BytesService {
    const NAME: &'static str = "balancer.interop.Bytes";
}

impl Service<http::Request<Body>> for BytesService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(RawCodec).max_decoding_message_size(MESSAGE_BYTES_MAX);
            Ok(match request.uri().path() {
                UNARY => grpc.unary(Self, request).await,
                DOWNLOAD => grpc.server_streaming(Self, request).await,
                UPLOAD => grpc.client_streaming(Self, request).await,
                CHAT => grpc.streaming(Self, request).await,
                path => Status::unimplemented(format!("no method {path}")).into_http(),
            })
        })
    }
}

fn opened(message: &Bytes) -> Result<Bytes, Status> {
    let mismatch = || {
        let bytes = message.len();
        Status::data_loss(format!("mismatch in {bytes} bytes of a request"))
    };
    unseal(message).ok_or_else(mismatch)
}

impl UnaryService<Bytes> for BytesService {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let request = request.into_inner();
        Box::pin(std::future::ready(opened(&request).map(|_| Response::new(request))))
    }
}

impl ServerStreamingService<Bytes> for BytesService {
    type Response = Bytes;
    type ResponseStream = BoxStream<Bytes>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let replies = opened(&request.into_inner()).and_then(|payload| {
            let [messages, pause_us] = [0, 4].map(|at: usize| {
                payload
                    .get(at..at + 4)
                    .and_then(|word| word.try_into().ok())
                    .map(u32::from_be_bytes)
            });
            let (Some(messages), Some(pause_us)) = (messages, pause_us) else {
                return Err(Status::invalid_argument("a request for a stream is too short"));
            };
            Ok(Response::new(repeat(payload.slice(8..), messages, pause_us)))
        });
        Box::pin(std::future::ready(replies))
    }
}

fn repeat(chunk: Bytes, messages: u32, pause_us: u32) -> BoxStream<Bytes> {
    let pause = Duration::from_micros(pause_us.into());
    let replies = stream::iter(0..messages).then(move |index| {
        let reply = seal(&numbered(index, &chunk));
        async move {
            if index > 0 {
                time::sleep(pause).await;
            }
            Ok(reply)
        }
    });
    Box::pin(replies)
}

impl ClientStreamingService<Bytes> for BytesService {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(async move {
            let mut requests = request.into_inner();
            let (mut digest, mut count) = (Digest::new(&SHA256), 0_u32);
            while let Some(request) = requests.message().await? {
                let payload = opened(&request)?;
                if !payload.starts_with(&count.to_be_bytes()) {
                    return Err(Status::data_loss("mismatch of a message's number"));
                }
                digest.update(&payload);
                count += 1;
            }
            Ok(Response::new(seal(&numbered(count, digest.finish().as_ref()))))
        })
    }
}

impl StreamingService<Bytes> for BytesService {
    type Response = Bytes;
    type ResponseStream = BoxStream<Bytes>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let replies = echo(request.into_inner());
        Box::pin(std::future::ready(Ok(Response::new(Box::pin(replies) as BoxStream<Bytes>))))
    }
}

fn echo(requests: Streaming<Bytes>) -> impl Stream<Item = Result<Bytes, Status>> {
    requests.map(|request| {
        let request = request?;
        opened(&request).map(|_| request)
    })
}
