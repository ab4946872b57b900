//! HTTP/2 by hand: a client that sends PING frames, and a server that answers them. So one real connection can be
//! moved where no gRPC runs: in the guests of `cargo xtask test-kernels`.

use anyhow::{Context, bail, ensure};
use balancer_agent::datapath::{http2, loader::Loaded};
use balancer_common::http2::{
    Http2Request,
    flow::Visibility,
    frame::{FrameHead, GOAWAY, PREFACE, SETTINGS},
    gate::{ACKED, WANTED},
};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

const PING: u8 = 6;
const ACK: u8 = 1;
const HEAD_BYTES: usize = 9;
/// Longest wait for bytes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answered before the move, until it must have been made, and behind it.
const PINGS: u64 = 20;

/// A frame as it was read.
struct Frame {
    head: FrameHead,
    payload: Vec<u8>,
}

fn read_frame(stream: &mut TcpStream) -> io::Result<Frame> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head)?;
    let head = FrameHead::parse(head);
    let mut payload = vec![0; head.length as usize];
    stream.read_exact(&mut payload)?;
    Ok(Frame { head, payload })
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [.., length] = payload.len().to_be_bytes();
    [&[0, 0, length, kind, flags, 0, 0, 0, 0], payload].concat()
}

/// Serves one connection after the other until the process ends.
///
/// # Errors
/// When the address cannot be had.
pub fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Whatever is wrong, the client misses its answers.
            let _ = answer(stream);
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface)?;
    ensure!(preface == PREFACE, "no preface");
    stream.write_all(&frame(SETTINGS, 0, &[]))?;
    loop {
        let Frame { head, payload } = read_frame(&mut stream)?;
        match (head.kind, head.flags) {
            (SETTINGS | PING, 0) => stream.write_all(&frame(head.kind, ACK, &payload))?,
            other => bail!("the client sent {other:?}"),
        }
    }
}

struct Client {
    stream: TcpStream,
    sent: u64,
    /// GOAWAY frames that came.
    goaways: u32,
}

impl Client {
    fn dial(frontend: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&frontend, PATIENCE)
            .with_context(|| format!("dial {frontend}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, sent: 0, goaways: 0 };
        client.stream.write_all(&[&PREFACE[..], &frame(SETTINGS, 0, &[])].concat())?;
        Ok(client)
    }

    /// Sends a PING, and reads until its answer.
    fn ping(&mut self) -> anyhow::Result<()> {
        self.sent += 1;
        let number = self.sent.to_be_bytes();
        self.stream.write_all(&frame(PING, 0, &number))?;
        loop {
            let Frame { head, payload } = read_frame(&mut self.stream)
                .with_context(|| format!("wait for the answer to PING {}", self.sent))?;
            match (head.kind, head.flags) {
                (PING, ACK) => {
                    ensure!(payload == number, "PING {} is answered by {payload:?}", self.sent);
                    return Ok(());
                }
                (SETTINGS, _) => {}
                (GOAWAY, 0) => self.goaways += 1,
                other => bail!("the server sent {other:?}"),
            }
        }
    }
}

/// Dials `frontend`, whose backend is served by [`serve`], and moves the connection: the client is told once, every
/// byte of both sides arrives, and the kernel knows that it is shifted.
///
/// # Errors
/// Names what is not as it should be.
pub fn check_move(loaded: &Loaded, frontend: SocketAddr) -> anyhow::Result<()> {
    let mut client = Client::dial(frontend)?;
    for _ in 0..PINGS {
        client.ping()?;
    }
    ensure!(client.goaways == 0, "GOAWAY came before anybody wanted it");
    let local = client.stream.local_addr()?.port().to_be();
    let flows = loaded.maps.read_http2_flows()?;
    let (cookie, (key, flow)) = flows
        .into_iter()
        .find(|(_, (key, _))| key.client_port_be == local)
        .context("the connection is not followed")?;
    ensure!(flow.visibility() == Visibility::Visible, "it is not visible: {flow:?}");
    let request = Http2Request { key, cookie, wanted: WANTED };
    ensure!(http2::request(loaded, &request)?, "the connection is not there");
    for _ in 0..2 * PINGS {
        client.ping()?;
    }
    ensure!(client.goaways == 1, "GOAWAY came {} times", client.goaways);
    let flows = loaded.maps.read_http2_flows()?;
    let (_, flow) = flows.get(&cookie).context("the connection is not followed any more")?;
    ensure!(flow.visibility() == Visibility::Moved, "it has not moved: {flow:?}");
    ensure!(flow.gate & ACKED != 0, "nobody has acknowledged the frame: {flow:?}");
    Ok(())
}
