//! What a scraper and a probe of an agent see.

use anyhow::{Context, ensure};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// An address that nobody listens at.
///
/// # Errors
/// When there is none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").context("look for a port")?.local_addr()?)
}

/// Status code and body of a GET.
///
/// # Errors
/// When nobody answers, or with something else than HTTP.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("dial {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("read {path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
    let code = head.split(' ').nth(1).context("the answer has no status")?;
    Ok((code.parse().with_context(|| format!("read the status `{code}`"))?, body.to_owned()))
}

/// The value of a series.
///
/// # Errors
/// When there is no such series.
pub fn sample(address: SocketAddr, series: &str) -> anyhow::Result<f64> {
    let (status, text) = get(address, "/metrics")?;
    ensure!(status == 200, "{status}: {text}");
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = value.with_context(|| format!("no {series} in:\n{text}"))?;
    value.parse().with_context(|| format!("read the value `{value}`"))
}
