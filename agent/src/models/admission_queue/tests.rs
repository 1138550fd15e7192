use super::*;
use futures::FutureExt;
use futures::future::BoxFuture;

fn queue(concurrency: u32, capacity: u32) -> Arc<AdmissionQueue> {
    Arc::new(AdmissionQueue::new(concurrency, capacity))
}

fn key(priority: Priority, fairness_key: u64) -> QueueKey {
    QueueKey {
        priority,
        fairness_key,
    }
}

async fn acquire(queue: &Arc<AdmissionQueue>) -> Permit {
    let acquired = queue.clone().acquire(QueueKey::default(), None).await;
    acquired.ok().unwrap()
}

#[tokio::test]
async fn permit_passes_to_the_next_waiting_request() {
    let queue = queue(1, 2);
    let first = acquire(&queue).await;
    let mut second = Box::pin(acquire(&queue));
    let mut third = Box::pin(acquire(&queue));
    assert!((&mut second).now_or_never().is_none());
    assert!((&mut third).now_or_never().is_none());
    assert_eq!(queue.counts(), (1, 2));
    drop(first);
    assert_eq!(queue.counts(), (1, 1));
    assert!((&mut third).now_or_never().is_none());
    // It has received the permit, but leaves without taking it.
    drop(second);
    let third = third.await;
    assert!(third.waited > Duration::ZERO);
    drop(third);
    assert_eq!(queue.counts(), (0, 0));
}

#[tokio::test]
async fn higher_priority_displaces_a_waiting_request() {
    let queue = queue(1, 1);
    let computing = acquire(&queue).await;
    let low = tokio::spawn(queue.clone().acquire(key(Priority::Low, 0), None));
    while queue.counts().1 == 0 {
        tokio::task::yield_now().await;
    }
    let refused = queue.clone().acquire(key(Priority::Low, 0), None).await;
    assert!(matches!(
        refused.err(),
        Some(RequestError::Overloaded { .. })
    ));
    let mut high = Box::pin(queue.clone().acquire(key(Priority::High, 0), None));
    assert!((&mut high).now_or_never().is_none());
    let displaced = low.await.unwrap().err();
    assert!(matches!(displaced, Some(RequestError::Overloaded { .. })));
    drop(computing);
    assert!(high.await.is_ok());
}

#[tokio::test]
async fn request_leaves_the_queue_at_its_deadline() {
    let queue = queue(1, 5);
    let computing = acquire(&queue).await;
    let deadline = Some(Duration::from_millis(5));
    let late = queue.clone().acquire(QueueKey::default(), deadline).await;
    assert!(matches!(late.err(), Some(RequestError::DeadlineUnmet(_))));
    assert_eq!(queue.counts(), (1, 0));
    drop(computing);
    assert_eq!(queue.counts(), (0, 0));
}

#[tokio::test]
async fn closed_queue_rejects_the_waiting_and_drains_the_computing() {
    let queue = queue(1, 1);
    let computing = acquire(&queue).await;
    let waiting = tokio::spawn(queue.clone().acquire(QueueKey::default(), None));
    while queue.counts().1 == 0 {
        tokio::task::yield_now().await;
    }
    queue.close("unloaded");
    let rejected = waiting.await.unwrap().err();
    assert!(matches!(rejected, Some(RequestError::Unavailable { .. })));
    let late = queue.clone().acquire(QueueKey::default(), None).await;
    assert!(matches!(late.err(), Some(RequestError::Unavailable { .. })));
    assert!(queue.drained().now_or_never().is_none());
    drop(computing);
    queue.drained().await;
}

/// A request with several turns, of which the first is computed.
async fn acquire_split(queue: &Arc<AdmissionQueue>, queue_key: QueueKey) -> (Permit, SplitRequest) {
    let mut permit = queue.clone().acquire(queue_key, None).await.ok().unwrap();
    let split = permit.split(queue_key);
    (permit, split)
}

/// Waits for a permit in the queue, and fails if there is one at once.
fn wait<'a>(
    permit: impl Future<Output = Result<Permit, RequestError>> + Send + 'a,
) -> BoxFuture<'a, Result<Permit, RequestError>> {
    let mut permit: BoxFuture<'a, _> = Box::pin(permit);
    assert!((&mut permit).now_or_never().is_none());
    permit
}

#[tokio::test]
async fn request_with_several_turns_counts_once_and_uses_every_free_slot() {
    let queue = queue(2, 1);
    let (first, split) = acquire_split(&queue, QueueKey::default()).await;
    let second = split.acquire(None).await.ok().unwrap();
    assert_eq!(queue.counts(), (2, 0));
    // The third turn waits, but the request is being computed.
    let third = wait(split.acquire(None));
    assert_eq!(queue.counts(), (2, 0));
    let other = wait(queue.clone().acquire(QueueKey::default(), None));
    assert_eq!(queue.counts(), (2, 1));
    drop((first, second));
    assert_eq!(queue.counts(), (2, 0));
    let (third, other) = (third.await.ok().unwrap(), other.await.ok().unwrap());
    drop((third, other));
    // Between two turns the request waits.
    assert_eq!(queue.counts(), (0, 1));
    drop(split);
    assert_eq!(queue.counts(), (0, 0));
    queue.drained().await;
}

#[tokio::test]
async fn other_client_waits_for_one_turn_of_a_request_with_many() {
    for concurrency in [1, 3] {
        let queue = queue(concurrency, 1);
        let heavy = key(Priority::Normal, 1);
        let (first, split) = acquire_split(&queue, heavy).await;
        let mut computing = vec![first];
        for _ in 1..concurrency {
            computing.push(split.acquire(None).await.ok().unwrap());
        }
        for _ in 0..5 {
            let mut next = wait(split.acquire(None));
            let light = wait(queue.clone().acquire(key(Priority::Normal, 2), None));
            drop(computing.remove(0));
            let light = light.now_or_never().expect("it is the light client's turn");
            assert!((&mut next).now_or_never().is_none());
            drop(light);
            computing.push(next.await.ok().unwrap());
        }
    }
}

#[tokio::test]
async fn further_turns_enter_a_full_queue_and_are_not_displaced() {
    let queue = queue(1, 1);
    let (first, split) = acquire_split(&queue, key(Priority::Low, 1)).await;
    let _other = wait(queue.clone().acquire(key(Priority::Low, 2), None));
    let mut next = wait(split.acquire(None));
    let refused = queue.clone().acquire(key(Priority::Low, 3), None).await;
    assert!(refused.is_err());
    // A higher priority displaces the request that has not begun.
    let high = wait(queue.clone().acquire(key(Priority::High, 4), None));
    assert!((&mut next).now_or_never().is_none());
    drop(first);
    drop(high.await);
    assert!(next.await.is_ok());
}

#[tokio::test]
async fn waiting_turns_keep_out_no_request_of_a_higher_priority() {
    let queue = queue(1, 1);
    let low = key(Priority::Low, 1);
    let (first, one) = acquire_split(&queue, low).await;
    let other = wait(queue.clone().acquire(low, None));
    drop(first);
    let mut other = other.await.ok().unwrap();
    let two = other.split(low);
    let _turns = [wait(one.acquire(None)), wait(two.acquire(None))];
    assert!(queue.clone().acquire(low, None).await.is_err());
    let _high = wait(queue.clone().acquire(key(Priority::High, 2), None));
    let refused = queue.clone().acquire(key(Priority::High, 2), None).await;
    assert!(refused.is_err(), "the number of requests is bounded");
}

#[tokio::test]
async fn computing_requests_count_once_beside_waiting_turns_of_a_lower_priority() {
    let queue = queue(4, 2);
    let (low, high) = (key(Priority::Low, 1), key(Priority::High, 2));
    let (first, one) = acquire_split(&queue, low).await;
    let (second, two) = acquire_split(&queue, low).await;
    drop((first, second));
    let mut computing = Vec::new();
    for _ in 0..4 {
        computing.push(queue.clone().acquire(high, None).await.ok().unwrap());
    }
    let _turns = [wait(one.acquire(None)), wait(two.acquire(None))];
    assert_eq!(queue.counts(), (4, 2));
    // Both places in the queue are free for them.
    let _waiting = [(); 2].map(|()| wait(queue.clone().acquire(high, None)));
    let refused = queue.clone().acquire(high, None).await;
    assert!(matches!(
        refused.err(),
        Some(RequestError::Overloaded { .. })
    ));
}

#[tokio::test]
async fn request_with_several_turns_goes_on_in_a_closed_queue() {
    let queue = queue(1, 1);
    let (first, split) = acquire_split(&queue, QueueKey::default()).await;
    let second = wait(split.acquire(None));
    queue.close("unloaded");
    drop(first);
    drop(second.await.ok().unwrap());
    drop(split.acquire(None).await.ok().unwrap());
    assert!(queue.drained().now_or_never().is_none());
    drop(split);
    queue.drained().await;
}
