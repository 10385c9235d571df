use std::time::Duration;

use super::*;
use crate::dns::query::Transport;

fn asked() -> MessageContext {
    MessageContext {
        side: Side::Client,
        transport: Transport::Udp,
        asker: "192.0.2.1:4000".parse().unwrap(),
        server: "192.0.2.2:53".parse().unwrap(),
        at: now(),
    }
}

fn everything() -> TapOptions {
    TapOptions { sample_rate: 1, what: MessageFilter::Both }
}

#[test]
fn nobody_listening_costs_nothing_but_a_look_whether_somebody_does() {
    let tap = Arc::new(Tap::default());
    assert!(!tap.wanted());
    tap.offer(asked(), b"query", b"response");
    assert!(tap.question(asked(), b"query").is_none());
    assert_eq!((tap.told(), tap.lost()), (0, 0));
    let seat = tap.sit_down(everything()).unwrap();
    assert!(tap.wanted());
    drop(seat);
    assert!(!tap.wanted());
}

#[test]
fn there_is_room_for_a_few_readers_and_again_when_one_has_gone() {
    let tap = Arc::new(Tap::default());
    let mut seats: Vec<ReaderHandle> = (0..READERS).map(|_| tap.sit_down(everything()).unwrap()).collect();
    assert!(tap.sit_down(everything()).is_none());
    seats.remove(1);
    assert!(tap.sit_down(everything()).is_some());
}

#[tokio::test]
async fn a_reader_sees_the_answers_of_the_questions_that_it_saw_and_only_what_it_wants() {
    let tap = Arc::new(Tap::default());
    let both = tap.sit_down(TapOptions { sample_rate: 4, what: MessageFilter::Both }).unwrap();
    let answers = tap.sit_down(TapOptions { sample_rate: 1, what: MessageFilter::Responses }).unwrap();
    for _ in 0..400 {
        tap.offer(asked(), b"query", b"response");
    }
    let read = async |seat: &ReaderHandle| {
        let frames = seat.frames().await;
        let mut left = &frames[..];
        let (mut queries, mut responses) = (0, 0);
        while let Some(frames::Frame::Data(frame)) = frames::read(&mut left).await.unwrap() {
            queries += u32::from(frame.windows(5).any(|part| part == b"query"));
            responses += u32::from(frame.windows(8).any(|part| part == b"response"));
        }
        (queries, responses)
    };
    let (queries, responses) = read(&both).await;
    // 400 × 1/4 is 100 with a standard deviation of 8.7; this is ten of them.
    assert!(queries == responses && (14..=186).contains(&queries), "{queries} and {responses}");
    assert_eq!(read(&answers).await, (0, 400));
}

#[tokio::test]
async fn what_waits_for_a_reader_that_stands_still_is_bounded_and_the_rest_is_counted() {
    let tap = Arc::new(Tap::default());
    let seat = tap.sit_down(everything()).unwrap();
    let message = [0; 4096];
    for _ in 0..1000 {
        tap.offer(asked(), &message, &message);
    }
    let waiting = locked(&tap.readers[seat.number].waiting).capacity();
    assert!(waiting <= 2 * MOST_WAITING, "{waiting}");
    assert_eq!(tap.told() + tap.lost(), 2000);
    assert!(tap.lost() > 1000, "{}", tap.lost());
    let frames = tokio::time::timeout(Duration::from_secs(5), seat.frames()).await.unwrap();
    assert!(frames.len() <= MOST_WAITING + 256);
    tap.offer(asked(), &message, &message);
    assert_eq!(tap.told() + tap.lost(), 2002);
    assert!(!locked(&tap.readers[seat.number].waiting).is_empty(), "there is room again");
}
