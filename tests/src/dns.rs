//! A DNS server with the answers that a test wants. Dead once it is dropped; another one can take
//! its address.

use anyhow::Context;
use hickory_server::{
    Server,
    net::runtime::Time,
    proto::{
        op::{Metadata, ResponseCode},
        rr::{Name, RData, Record, RecordType},
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime::Runtime,
};

/// How long an idle TCP client is kept.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Responses that may wait on one TCP connection.
const TCP_RESPONSES: usize = 16;

/// Addresses and their TTL in seconds by name, without the dot at its end.
type Hosts = Arc<Mutex<BTreeMap<String, (u32, Vec<IpAddr>)>>>;

/// A running server.
pub struct NameServer {
    address: SocketAddr,
    hosts: Hosts,
    // Before the runtime that it runs on.
    _server: Server<Handler>,
    _runtime: Runtime,
}

// === impl NameServer ===

impl NameServer {
    /// Listens for UDP and TCP.
    ///
    /// # Errors
    /// When the address is not there or taken.
    pub fn start(address: SocketAddr) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start the name server's runtime")?;
        let hosts = Hosts::default();
        let handler = Handler(Arc::clone(&hosts));
        let (server, address) = runtime.block_on(async {
            let tcp = TcpListener::bind(address).await?;
            let address = tcp.local_addr()?;
            let udp = UdpSocket::bind(address).await?;
            let mut server = Server::new(handler);
            server.register_socket(udp);
            server.register_listener(tcp, TCP_IDLE, TCP_RESPONSES);
            anyhow::Ok((server, address))
        })?;
        Ok(Self { address, hosts, _server: server, _runtime: runtime })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets all addresses of a name.
    pub fn say(&self, name: &str, ttl: u32, ips: &[IpAddr]) {
        if let Ok(mut hosts) = self.hosts.lock() {
            hosts.insert(name.into(), (ttl, ips.to_vec()));
        }
    }
}

#[derive(Clone)]
struct Handler(Hosts);

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let answers = match request.request_info() {
            Ok(info) => {
                let name = Name::from(info.query.name());
                self.answers(&name, info.query.query_type())
            }
            Err(_) => None,
        };
        if answers.is_none() {
            metadata.response_code = ResponseCode::NXDomain;
        }
        let answers = answers.unwrap_or_default();
        let message = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            &answers,
            &[],
            &[],
            &[],
        );
        match response.send_response(message).await {
            Ok(info) => info,
            // Whoever asked has gone away.
            Err(_) => ResponseInfo::from(hickory_server::proto::op::Header {
                metadata,
                counts: hickory_server::proto::op::HeaderCounts::default(),
            }),
        }
    }
}

impl Handler {
    /// The records of a name; `None` when there is no such name.
    fn answers(&self, name: &Name, kind: RecordType) -> Option<Vec<Record>> {
        let key = name.to_string();
        let hosts = self.0.lock().ok()?;
        let (ttl, ips) = hosts.get(key.trim_end_matches('.'))?;
        let of_kind = ips.iter().filter(|ip| match kind {
            RecordType::A => ip.is_ipv4(),
            RecordType::AAAA => ip.is_ipv6(),
            _ => false,
        });
        let record = |ip: &IpAddr| Record::from_rdata(name.clone(), *ttl, RData::from(*ip));
        Some(of_kind.map(record).collect())
    }
}
