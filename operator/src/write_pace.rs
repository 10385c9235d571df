//! Pace of the writes to the API server: a layer of the client, which all tiers share.
//!
//! A new tier has thirty objects, and a roll-out tells thousands of pods. With the renewals of the Lease, which have a
//! client of their own and do not wait, the operator stays below 20 writes in any second whatever it does. What is left
//! to 20 is for writes that leave apart and arrive together.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::Request;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::verb::Verb;

/// Time between two writes: 16 each second.
pub(crate) const WRITE_INTERVAL: Duration = Duration::from_micros(1_000_000 / 16 + 1);

/// Layer that holds writes back until it is their turn, in the order in which they come.
///
/// The time of the last write is kept, and not that of the next: writes that a machine which stood still has missed are
/// not made up for.
#[derive(Clone, Debug, Default)]
pub(crate) struct WritePace(Arc<Mutex<Option<Instant>>>);

impl<S> Layer<S> for WritePace {
    type Service = PacedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PacedService { inner, last: self.0.clone() }
    }
}

/// Service whose writes wait for their turns.
pub(crate) struct PacedService<S> {
    inner: S,
    last: Arc<Mutex<Option<Instant>>>,
}

impl<S, B> Service<Request<B>> for PacedService<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_write = Verb::of(&request).is_write();
        // Nothing is sent before the future is polled.
        let response = self.inner.call(request);
        if !is_write {
            return response.boxed();
        }
        let last = self.last.clone();
        async move {
            let mut last = last.lock().await;
            if let Some(last) = *last {
                tokio::time::sleep_until(last + WRITE_INTERVAL).await;
            }
            *last = Some(Instant::now());
            drop(last);
            response.await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use hyper::Method;

    use super::*;

    /// Service that records when requests come, in milliseconds since its start.
    #[derive(Clone)]
    struct Recorder {
        start: Instant,
        times: Arc<Mutex<Vec<u128>>>,
    }

    impl Service<Request<()>> for Recorder {
        type Response = ();
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<(), Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            let recorder = self.clone();
            async move {
                recorder.times.lock().unwrap().push(recorder.start.elapsed().as_millis());
                Ok(())
            }
            .boxed()
        }
    }

    /// Sends requests at once, and returns the times in milliseconds at which they are sent on.
    async fn send(methods: impl IntoIterator<Item = Method>) -> Vec<u128> {
        let recorder = Recorder { start: Instant::now(), times: Arc::default() };
        let mut service = WritePace::default().layer(recorder.clone());
        let responses: Vec<_> = methods
            .into_iter()
            .map(|method| service.call(Request::builder().method(method).uri("/api").body(()).unwrap()))
            .collect();
        futures::future::join_all(responses).await;
        recorder.times.lock().unwrap().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_16_writes() {
        let sent = send(vec![Method::PATCH; 100]).await;
        assert_eq!(sent.len(), 100);
        assert!(sent.windows(17).all(|times| times[16] - times[0] >= 1_000), "{sent:?}");
        assert!(sent[99] < 6_600, "they do not wait longer than that: {sent:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn writes_that_a_process_has_missed_are_not_made_up_for() {
        let sending = tokio::spawn(send(vec![Method::PATCH; 60]));
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(30)).await;
        let sent = sending.await.unwrap();
        assert!(sent[1] >= 30_000, "the process stood still: {sent:?}");
        assert!(sent.windows(17).all(|times| times[16] - times[0] >= 1_000), "{sent:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn reads_do_not_wait_for_writes() {
        let sent = send([vec![Method::POST; 50], vec![Method::GET; 10]].concat()).await;
        assert_eq!(sent.iter().filter(|time| **time == 0).count(), 11, "{sent:?}");
    }
}
