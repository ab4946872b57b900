//! What is answered with a daemon that answers, one that does not, and maps that cannot be read.

use super::*;
use axum::body;

const BODY_BYTES_MAX: usize = 1 << 20;

fn observer(asks: mpsc::Sender<Ask>, read: ReadKernel) -> Arc<Observer> {
    Observer::new(HttpSettings::default(), asks, DnsHealth::default(), read)
}

/// An observer of a daemon that answers every question.
fn observed(read: ReadKernel) -> Arc<Observer> {
    let (asks, mut pending) = mpsc::channel::<Ask>(ASKS_MAX);
    tokio::spawn(async move {
        while let Some(ask) = pending.recv().await {
            let _ = ask.send(exposition::tests::vitals());
        }
    });
    observer(asks, read)
}

async fn answer(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let bytes = body::to_bytes(response.into_body(), BODY_BYTES_MAX).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

fn empty() -> ReadKernel {
    Box::new(|_| Ok(KernelView::default()))
}

#[tokio::test]
async fn a_daemon_that_answers_is_alive_and_ready() {
    let observer = observed(empty());
    assert_eq!(answer(healthz(State(observer.clone())).await).await, (200, "ok\n".into()));
    assert_eq!(answer(readyz(State(observer.clone())).await).await, (200, "ready\n".into()));
    let response = metrics(State(observer)).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
    let (status, text) = answer(response).await;
    assert_eq!(status, 200);
    assert!(text.contains("\nbalancer_agent_ready 1\n"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_answer_is_said_to_be_silent() {
    // The receiver lives and is never read, as that of a loop that is stuck.
    let (asks, pending) = mpsc::channel(ASKS_MAX);
    let observer = observer(asks, empty());
    // More than the channel holds: none of them waits for ever.
    for _ in 0..=ASKS_MAX {
        let (status, text) = answer(healthz(State(observer.clone())).await).await;
        assert_eq!((status, text.trim_end()), (503, health::SILENT));
    }
    let (status, text) = answer(readyz(State(observer.clone())).await).await;
    assert_eq!((status, text.trim_end()), (503, health::SILENT));
    let (status, text) = answer(metrics(State(observer)).await).await;
    assert_eq!(status, 200, "the rest is told");
    assert!(text.contains("\nbalancer_agent_responsive 0\n"), "{text}");
    drop(pending);
}

#[tokio::test]
async fn maps_that_cannot_be_read_do_not_void_a_scrape() {
    let observer = observed(Box::new(|_| Err(MapError::KeyNotFound)));
    let (status, text) = answer(metrics(State(observer)).await).await;
    assert_eq!(status, 200);
    assert!(text.contains("\nbalancer_maps_readable 0\n"), "{text}");
    assert!(text.contains("\nbalancer_events_total 9\n"), "{text}");
}
