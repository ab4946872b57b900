//! A DNS server whose answers are scripted per name and type, and which counts what it is asked.

use hickory_server::{
    Server,
    net::{runtime::Time, xfer::Protocol},
    proto::{
        op::{Header, HeaderCounts, Metadata, ResponseCode},
        rr::{
            Name, RData, Record, RecordType,
            rdata::{CNAME, SOA, SRV},
        },
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    time::timeout,
};

/// Longest that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Stands for the name that was asked for.
const ASKED: &str = "asked.test";

/// What the server says to one question.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// No records: NXDOMAIN or NODATA, to be remembered for so many seconds.
    Nothing {
        code: ResponseCode,
        ttl: u32,
    },
    Code(ResponseCode),
    Silence,
    /// One after the other, over and over.
    Turns(Vec<Reply>),
}

/// What was asked so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    counts: HashMap<(String, RecordType), u64>,
    pub(crate) over_tcp: u64,
    in_flight: BTreeSet<(String, RecordType)>,
    pub(crate) in_flight_max: usize,
}

#[derive(Debug)]
struct Script {
    replies: Mutex<HashMap<(String, RecordType), Reply>>,
    seen: watch::Sender<Seen>,
    /// Replies wait until so many questions wait for one.
    hold_until: usize,
}

#[derive(Clone)]
struct Handler(Arc<Script>);

pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    script: Arc<Script>,
    /// Serves until dropped.
    _server: Server<Handler>,
}

// === impl Reply ===

impl Reply {
    /// A and AAAA records; the server picks by type.
    pub(crate) fn addresses(ttl: u32, ips: &[&str]) -> Self {
        let records = ips.iter().map(|ip| address(ASKED, ttl, ip)).collect();
        Self::Records { answers: records, additionals: Vec::new() }
    }

    pub(crate) fn services(answers: Vec<Record>, additionals: Vec<Record>) -> Self {
        Self::Records { answers, additionals }
    }

    pub(crate) fn nxdomain() -> Self {
        Self::Nothing { code: ResponseCode::NXDomain, ttl: 0 }
    }
}

pub(crate) fn address(name: &str, ttl: u32, ip: &str) -> Record {
    let data = RData::from(ip.parse::<IpAddr>().unwrap());
    Record::from_rdata(absolute(name), ttl, data)
}

pub(crate) fn alias(name: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(absolute(name), ttl, RData::CNAME(CNAME(absolute(target))))
}

pub(crate) fn srv(name: &str, ttl: u32, fields: (u16, u16, u16), target: &str) -> Record {
    let (priority, weight, port) = fields;
    let data = RData::SRV(SRV::new(priority, weight, port, absolute(target)));
    Record::from_rdata(absolute(name), ttl, data)
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_str(name).unwrap();
    name.set_fqdn(true);
    name
}

// === impl DnsServer ===

impl DnsServer {
    pub(crate) async fn start() -> Self {
        Self::bind("127.0.0.1:0".parse().unwrap(), 0).await.expect("bind a port of the loopback")
    }

    /// A server that answers only when `questions` wait for an answer, and from then on.
    pub(crate) async fn start_held(questions: usize) -> Self {
        let address = "127.0.0.1:0".parse().unwrap();
        Self::bind(address, questions).await.expect("bind a port of the loopback")
    }

    pub(crate) async fn bind(address: SocketAddr, hold_until: usize) -> std::io::Result<Self> {
        let (udp, tcp) = bind_both(address).await?;
        let address = udp.local_addr()?;
        let script = Arc::new(Script {
            replies: Mutex::default(),
            seen: watch::Sender::default(),
            hold_until,
        });
        let mut server = Server::new(Handler(Arc::clone(&script)));
        server.register_socket(udp);
        server.register_listener(tcp, PATIENCE, 16);
        Ok(Self { address, script, _server: server })
    }

    /// Sets what the server says from now on.
    pub(crate) fn say(&self, name: &str, kind: RecordType, reply: Reply) {
        self.script.replies.lock().unwrap().insert((name.to_owned(), kind), reply);
    }

    /// Sets the A and AAAA records of `name`.
    pub(crate) fn say_host(&self, name: &str, ttl: u32, ips: &[&str]) {
        for (kind, is_kind) in [
            (RecordType::A, IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
            (RecordType::AAAA, IpAddr::is_ipv6),
        ] {
            let ips: Vec<&str> =
                ips.iter().copied().filter(|ip| is_kind(&ip.parse().unwrap())).collect();
            self.say(name, kind, Reply::addresses(ttl, &ips));
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.script.seen.borrow().clone()
    }

    /// How often `name` was asked for.
    pub(crate) fn count(&self, name: &str, kind: RecordType) -> u64 {
        self.seen().count(name, kind)
    }

    /// Waits until `name` was asked for `more` times more.
    pub(crate) async fn asked(&self, name: &str, kind: RecordType, more: u64) {
        let mut seen = self.script.seen.subscribe();
        let goal = seen.borrow_and_update().count(name, kind) + more;
        timeout(PATIENCE, seen.wait_for(|seen| seen.count(name, kind) >= goal))
            .await
            .unwrap_or_else(|_| panic!("nobody asks for {kind} of {name}"))
            .expect("the server lives");
    }
}

/// The same port for UDP and TCP, which the kernel picks for one of them only.
async fn bind_both(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    let mut last = None;
    for _ in 0..100 {
        let tcp = TcpListener::bind(address).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((udp, tcp)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("a hundred attempts left an error"))
}

// === impl Seen ===

impl Seen {
    fn count(&self, name: &str, kind: RecordType) -> u64 {
        self.counts.get(&(name.to_owned(), kind)).copied().unwrap_or(0)
    }
}

// === impl Script ===

impl Script {
    fn reply(&self, question: &(String, RecordType), turn: u64) -> Reply {
        let replies = self.replies.lock().unwrap();
        match replies.get(question) {
            Some(Reply::Turns(turns)) => {
                let turns_count = u64::try_from(turns.len()).unwrap();
                turns[usize::try_from(turn % turns_count).unwrap()].clone()
            }
            Some(reply) => reply.clone(),
            None => Reply::nxdomain(),
        }
    }
}

// === impl Handler ===

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        response: R,
    ) -> ResponseInfo {
        let info = request.request_info().expect("one question");
        let name = info.query.name().to_string().trim_end_matches('.').to_owned();
        let question = (name, info.query.query_type());
        let mut turn = 0;
        self.0.seen.send_modify(|seen| {
            let count = seen.counts.entry(question.clone()).or_default();
            turn = *count;
            *count += 1;
            seen.over_tcp += u64::from(info.protocol == Protocol::Tcp);
            seen.in_flight.insert(question.clone());
            seen.in_flight_max = seen.in_flight_max.max(seen.in_flight.len());
        });
        let mut seen = self.0.seen.subscribe();
        seen.wait_for(|seen| seen.in_flight_max >= self.0.hold_until)
            .await
            .expect("the script lives");
        let reply = self.0.reply(&question, turn);
        self.0.seen.send_modify(|seen| {
            seen.in_flight.remove(&question);
        });
        send(request, &question, reply, response).await
    }
}

async fn send<R: ResponseHandler>(
    request: &Request,
    question: &(String, RecordType),
    reply: Reply,
    mut response: R,
) -> ResponseInfo {
    let (name, _) = question;
    let mut metadata = Metadata::response_from_request(&request.metadata);
    let (mut answers, mut additionals, mut soa) = (Vec::new(), Vec::new(), Vec::new());
    match reply {
        Reply::Silence | Reply::Turns(_) => {
            return ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
        }
        Reply::Records { answers: records, additionals: more } => {
            answers = records;
            additionals = more;
            for record in &mut answers {
                if record.name == absolute(ASKED) {
                    record.name = absolute(name);
                }
            }
        }
        Reply::Nothing { code, ttl } => {
            metadata.response_code = code;
            let zone = SOA::new(absolute("ns.test"), absolute("who.test"), 1, 1, 1, 1, ttl);
            soa.push(Record::from_rdata(absolute("test"), ttl, RData::SOA(zone)));
        }
        Reply::Code(code) => metadata.response_code = code,
    }
    let message = MessageResponseBuilder::from_message_request(request).build(
        metadata,
        &answers,
        &[],
        &soa,
        &additionals,
    );
    response.send_response(message).await.expect("send an answer")
}
