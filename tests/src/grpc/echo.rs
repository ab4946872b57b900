//! The echo service: its messages, its paths, and the server's side of both methods.

use super::connection::{ConnectionRecord, Counters};
use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, BoxStream, Service, http, tokio_stream},
    server::{Grpc, NamedService, ServerStreamingService, UnaryService},
};
use tonic_prost::ProstCodec;

/// The full name of the service.
pub const SERVICE: &str = "balancer.demo.Echo";
/// The path of the unary method.
pub const ECHO: &str = "/balancer.demo.Echo/Echo";
/// The path of the server-streaming method.
pub const WATCH: &str = "/balancer.demo.Echo/Watch";
/// Most messages that one stream may ask for.
pub const MESSAGES_MAX: u32 = 1_000_000;

/// What a client sends.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EchoRequest {
    /// Comes back as it is.
    #[prost(bytes = "vec", tag = "1")]
    pub payload: Vec<u8>,
    /// How many replies a stream gives; of no meaning to the unary method.
    #[prost(uint32, tag = "2")]
    pub messages: u32,
}

/// What a server answers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EchoReply {
    /// The name of the server.
    #[prost(string, tag = "1")]
    pub backend: String,
    /// The payload of the request.
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

/// The service of one backend.
#[derive(Clone)]
pub struct EchoService {
    name: Arc<str>,
    counters: Arc<Counters>,
}

impl EchoService {
    /// A service that answers with `name` and counts in `counters`.
    pub fn new(name: &str, counters: Arc<Counters>) -> Self {
        Self { name: name.into(), counters }
    }

    fn answer(&self, request: Request<EchoRequest>) -> (EchoReply, u32) {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(connection) = request.extensions().get::<Arc<ConnectionRecord>>() {
            connection.requests.fetch_add(1, Ordering::Relaxed);
        }
        let EchoRequest { payload, messages } = request.into_inner();
        (EchoReply { backend: self.name.to_string(), payload }, messages)
    }
}

impl NamedService for EchoService {
    const NAME: &'static str = SERVICE;
}

impl Service<http::Request<Body>> for EchoService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::default());
            Ok(match request.uri().path() {
                ECHO => grpc.unary(Unary(service), request).await,
                WATCH => grpc.server_streaming(Watch(service), request).await,
                path => Status::unimplemented(format!("no method {path}")).into_http(),
            })
        })
    }
}

struct Unary(EchoService);

impl UnaryService<EchoRequest> for Unary {
    type Response = EchoReply;
    type Future = BoxFuture<Response<EchoReply>, Status>;

    fn call(&mut self, request: Request<EchoRequest>) -> Self::Future {
        let (reply, _) = self.0.answer(request);
        Box::pin(std::future::ready(Ok(Response::new(reply))))
    }
}

struct Watch(EchoService);

impl ServerStreamingService<EchoRequest> for Watch {
    type Response = EchoReply;
    type ResponseStream = BoxStream<EchoReply>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<EchoRequest>) -> Self::Future {
        let (reply, messages) = self.0.answer(request);
        let replies = (0..messages.min(MESSAGES_MAX)).map(move |_| Ok(reply.clone()));
        let stream: Self::ResponseStream = Box::pin(tokio_stream::iter(replies));
        Box::pin(std::future::ready(Ok(Response::new(stream))))
    }
}
