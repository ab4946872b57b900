//! Events of a watch in bundles. One that comes after a quiet time is told with what comes in the next
//! few milliseconds; after that nothing is read for a while, so that a cluster that changes a hundred
//! times a second does not wake the agent a hundred times a second.

use futures_util::{FutureExt, Stream, StreamExt};
use kube::runtime::watcher::{Error, Event};
use std::{collections::VecDeque, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};

/// How long changes are gathered before they are told: a rolling update comes in bursts.
const GATHERING: Duration = Duration::from_millis(5);
/// How long nothing is read after a change. With it a change is in the kernel's maps within 50 ms.
const PAUSE: Duration = Duration::from_millis(25);
/// Most events of one bundle.
const BUNDLE_MAX: usize = 256;
/// How often others are let run, so that they bring more: the connection is read by another task.
const YIELDS: usize = 4;

/// What a watch's stream brings.
type Item<K> = Option<Result<Event<K>, Error>>;

/// The events of a stream, in bundles.
pub(super) struct Paced<S, K> {
    stream: S,
    ready: VecDeque<Item<K>>,
    /// From when on the next events are read.
    until: Option<Instant>,
    /// The earliest time at which what is ready can have arrived.
    since: Instant,
}

// === impl Paced ===

impl<K, S: Stream<Item = Result<Event<K>, Error>> + Unpin> Paced<S, K> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, ready: VecDeque::new(), until: None, since: Instant::now() }
    }

    /// The earliest time at which the last event can have arrived.
    pub(super) const fn since(&self) -> Instant {
        self.since
    }

    /// The next event, if it is not the end. Those of a bundle come without a pause between them.
    pub(super) async fn next(&mut self) -> Item<K> {
        if let Some(item) = self.ready.pop_front() {
            return item;
        }
        if let Some(until) = self.until.take() {
            self.since = until - PAUSE;
            sleep_until(until).await;
            self.fill().await;
        }
        if self.ready.is_empty() {
            let item = self.stream.next().await;
            self.since = Instant::now();
            if !is_change(item.as_ref()) {
                return item;
            }
            self.ready.push_back(item);
            sleep(GATHERING).await;
            self.fill().await;
        }
        self.until = Some(Instant::now() + PAUSE);
        self.ready.pop_front().flatten()
    }

    /// Takes what is there already, up to the first event that is no change.
    async fn fill(&mut self) {
        let mut yields = 0;
        while yields < YIELDS && self.ready.len() < BUNDLE_MAX {
            let Some(item) = self.stream.next().now_or_never() else {
                tokio::task::yield_now().await;
                yields += 1;
                continue;
            };
            let is_change = is_change(item.as_ref());
            self.ready.push_back(item);
            if !is_change {
                return;
            }
        }
    }
}

/// Whether it is a change of one object: lists and errors are not held up.
fn is_change<K>(event: Option<&Result<Event<K>, Error>>) -> bool {
    matches!(event, Some(Ok(Event::Apply(_) | Event::Delete(_))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use tokio::sync::mpsc;

    type Sent = mpsc::UnboundedSender<Result<Event<u32>, Error>>;
    type Told = mpsc::UnboundedReceiver<(u128, Option<u32>)>;

    /// A paced stream of what is sent; tells when each event came, in milliseconds, and its number.
    fn paced() -> (Sent, Told) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let (tell, told) = mpsc::unbounded_channel();
        let started_at = Instant::now();
        tokio::spawn(async move {
            let mut paced = Paced::new(stream::poll_fn(|context| receiver.poll_recv(context)));
            while let Some(item) = paced.next().await {
                assert!(paced.since() <= Instant::now());
                let number = match item {
                    Ok(Event::Apply(number) | Event::InitApply(number)) => Some(number),
                    _ => None,
                };
                let _ = tell.send((started_at.elapsed().as_millis(), number));
            }
        });
        (sender, told)
    }

    async fn all(told: &mut Told, count: usize) -> Vec<(u128, Option<u32>)> {
        let mut all = Vec::new();
        told.recv_many(&mut all, count).await;
        all
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_change_waits_for_its_burst_and_the_next_for_the_pause() {
        let (sender, mut told) = paced();
        sender.send(Ok(Event::Apply(1))).unwrap();
        sleep(Duration::from_millis(2)).await;
        sender.send(Ok(Event::Apply(2))).unwrap();
        sleep(Duration::from_millis(10)).await;
        sender.send(Ok(Event::Apply(3))).unwrap();
        sleep(Duration::from_millis(10)).await;
        sender.send(Ok(Event::Apply(4))).unwrap();
        sleep(Duration::from_millis(200)).await;
        sender.send(Ok(Event::Apply(5))).unwrap();
        sleep(Duration::from_millis(100)).await;
        let expected = [(5, Some(1)), (5, Some(2)), (30, Some(3)), (30, Some(4)), (227, Some(5))];
        assert_eq!(all(&mut told, 10).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn lists_errors_and_the_end_are_not_held_up() {
        let (sender, mut told) = paced();
        sender.send(Ok(Event::Init)).unwrap();
        sender.send(Ok(Event::InitApply(1))).unwrap();
        sender.send(Err(Error::NoResourceVersion)).unwrap();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(all(&mut told, 10).await, [(0, None), (0, Some(1)), (0, None)]);
        sender.send(Ok(Event::Apply(2))).unwrap();
        sender.send(Err(Error::NoResourceVersion)).unwrap();
        sender.send(Ok(Event::Apply(3))).unwrap();
        drop(sender);
        sleep(Duration::from_millis(100)).await;
        // What follows an error in the stream is not read before the error was dealt with.
        assert_eq!(all(&mut told, 10).await, [(6, Some(2)), (6, None), (31, Some(3))]);
        assert!(told.recv().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_comes_in_bundles_of_bounded_size() {
        let (sender, mut told) = paced();
        for number in 0..600 {
            sender.send(Ok(Event::Apply(number))).unwrap();
        }
        sleep(Duration::from_millis(200)).await;
        let all = all(&mut told, 1_000).await;
        let at = |at| all.iter().filter(|it| it.0 == at).count();
        assert_eq!((at(5), at(30), at(55)), (256, 256, 88));
        assert!(all.iter().map(|it| it.1).eq((0..600).map(Some)));
    }
}
