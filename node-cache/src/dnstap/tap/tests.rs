use std::time::Duration;

use super::*;

/// Samples a query of a client and, if a reader samples it, the response.
fn sample_exchange(tap: &Tap, query: &[u8], response: &[u8]) -> Option<Box<Sampled>> {
    let client = || Ok("192.0.2.1:4000".parse().unwrap());
    let server = || Ok("192.0.2.2:53".parse().unwrap());
    let sampled = tap.sample_query(Side::Client, Transport::Udp, client, server, query);
    if let Some(sampled) = &sampled {
        tap.sample_response(sampled, response);
    }
    sampled
}

const ALL_MESSAGES: TapOptions = TapOptions { sample_rate: 1, filter: MessageFilter::Both };

#[test]
fn without_readers_a_query_costs_one_check_for_readers() {
    let tap = Arc::new(Tap::default());
    assert!(!tap.has_readers());
    assert!(sample_exchange(&tap, b"query", b"response").is_none());
    let unreachable = || unreachable!("no address is looked up");
    assert!(tap.sample_query(Side::Client, Transport::Udp, unreachable, unreachable, b"query").is_none());
    assert_eq!((tap.frames_written(), tap.frames_lost()), (0, 0));
    let reader = tap.attach(ALL_MESSAGES).unwrap();
    assert!(tap.has_readers());
    drop(reader);
    assert!(!tap.has_readers());
}

#[test]
fn readers_are_bounded_and_a_detached_one_frees_its_slot() {
    let tap = Arc::new(Tap::default());
    let mut readers: Vec<ReaderHandle> = (0..MAX_READERS).map(|_| tap.attach(ALL_MESSAGES).unwrap()).collect();
    assert!(tap.attach(ALL_MESSAGES).is_none());
    readers.remove(1);
    assert!(tap.attach(ALL_MESSAGES).is_some());
}

#[tokio::test]
async fn a_reader_gets_responses_to_the_queries_it_samples_and_only_what_it_filters() {
    let tap = Arc::new(Tap::default());
    let both = tap.attach(TapOptions { sample_rate: 4, filter: MessageFilter::Both }).unwrap();
    let responses_only = tap.attach(TapOptions { sample_rate: 1, filter: MessageFilter::Responses }).unwrap();
    for _ in 0..400 {
        sample_exchange(&tap, b"query", b"response");
    }
    let count = async |reader: &ReaderHandle| {
        let frames = reader.next_frames().await;
        let mut stream = &frames[..];
        let (mut queries, mut responses) = (0, 0);
        while let Some(frames::Frame::Data(frame)) = frames::read(&mut stream).await.unwrap() {
            queries += u32::from(frame.windows(5).any(|part| part == b"query"));
            responses += u32::from(frame.windows(8).any(|part| part == b"response"));
        }
        (queries, responses)
    };
    let (queries, responses) = count(&both).await;
    // 400 × 1/4 is 100 with a standard deviation of 8.7; this is ten of them.
    assert!(queries == responses && (14..=186).contains(&queries), "{queries} and {responses}");
    assert_eq!(count(&responses_only).await, (0, 400));
}

#[tokio::test]
async fn the_buffer_of_a_slow_reader_is_bounded_and_lost_frames_are_counted() {
    let tap = Arc::new(Tap::default());
    let reader = tap.attach(ALL_MESSAGES).unwrap();
    let message = [0; 4096];
    for _ in 0..1000 {
        sample_exchange(&tap, &message, &message);
    }
    let buffered = lock(&tap.slots[reader.slot].buffer).capacity();
    assert!(buffered <= 2 * MAX_BUFFERED_BYTES, "{buffered}");
    assert_eq!(tap.frames_written() + tap.frames_lost(), 2000);
    assert!(tap.frames_lost() > 1000, "{}", tap.frames_lost());
    let frames = tokio::time::timeout(Duration::from_secs(5), reader.next_frames()).await.unwrap();
    assert!(frames.len() <= MAX_BUFFERED_BYTES + 256);
    sample_exchange(&tap, &message, &message);
    assert_eq!(tap.frames_written() + tap.frames_lost(), 2002);
    assert!(!lock(&tap.slots[reader.slot].buffer).is_empty(), "there is room again");
}
