//! Connections without faults of the network.

use super::simulated::*;
use runtime::io::{AsyncReadExt, AsyncWriteExt};
use runtime::net::{TcpListener, TcpStream};
use runtime::side::{self, Connections, Link};
use runtime::time::{now, sleep, timeout};
use std::io::ErrorKind;
use std::time::Duration;

pub const CLAIMS: &[Claim] = &[
    ("who-does-not-read-stops-who-writes", || Box::pin(who_does_not_read_stops_who_writes())),
    ("half-closed-connections-still-answer", || Box::pin(half_closed_connections_still_answer())),
    ("unread-bytes-at-close-reset-the-peer", || Box::pin(unread_bytes_at_close_reset_the_peer())),
    ("bytes-after-close-are-answered-with-a-reset", || Box::pin(bytes_after_close_are_answered_with_a_reset())),
    ("nobody-listening-refuses", || Box::pin(nobody_listening_refuses())),
    ("an-address-of-no-machine-is-unreachable", || Box::pin(an_address_of_no_machine_is_unreachable())),
    ("ports-are-taken-once-and-given-back", || Box::pin(ports_are_taken_once_and_given_back())),
    ("within-a-machine-it-is-near", || Box::pin(within_a_machine_it_is_near())),
    ("bandwidth-is-shared-by-all-connections-of-a-link", || Box::pin(bandwidth_is_shared())),
    ("each-direction-has-its-own-latency-and-tail", || Box::pin(each_direction_has_its_own_latency())),
    ("losses-delay-and-never-lose-or-reorder-bytes", || Box::pin(losses_delay_and_never_lose_bytes())),
    ("connections-overtake-one-another-bytes-do-not", || Box::pin(connections_overtake_one_another())),
    ("a-slow-listener-lets-connections-wait", || Box::pin(a_slow_listener_lets_connections_wait())),
    ("a-full-backlog-hears-no-calls", || Box::pin(a_full_backlog_hears_no_calls())),
    ("a-closed-listener-resets-who-was-not-accepted", || Box::pin(a_closed_listener_resets_who_was_not_accepted())),
    ("an-abandoned-call-leaves-nothing-behind", || Box::pin(an_abandoned_call_leaves_nothing_behind())),
    (BESIDE_SILENCE, || Box::pin(arrivals(false))),
    (BESIDE_NOISE, || Box::pin(arrivals(true))),
];

async fn who_does_not_read_stops_who_writes() {
    let mut pair = pair().await;
    assert_eq!(fill(&mut pair.dialled).await, WINDOW);
    // The other direction has a window of its own.
    pair.accepted.write_all(b"free").await.unwrap();
    assert_eq!(read(&mut pair.dialled, 4).await, b"free");
    let half = read(&mut pair.accepted, WINDOW / 2).await;
    assert!(half.iter().all(|byte| *byte == 1));
    settle().await;
    assert_eq!(fill(&mut pair.dialled).await, WINDOW / 2);
    read(&mut pair.accepted, WINDOW).await;
}

async fn half_closed_connections_still_answer() {
    let mut pair = pair().await;
    pair.dialled.write_all(b"question").await.unwrap();
    pair.dialled.shutdown().await.unwrap();
    let mut question = Vec::new();
    pair.accepted.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    assert_eq!(pair.dialled.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    sleep(Duration::from_secs(5)).await;
    pair.accepted.write_all(b"answer").await.unwrap();
    drop(pair.accepted);
    let mut answer = Vec::new();
    pair.dialled.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    drop(pair.dialled);
    settle().await;
    assert_eq!(side::connections(&pair.one), Connections::default());
    assert_eq!(side::connections(&pair.two), Connections::default());
}

async fn unread_bytes_at_close_reset_the_peer() {
    let mut pair = pair().await;
    pair.dialled.write_all(b"not read").await.unwrap();
    settle().await;
    drop(pair.accepted);
    assert_eq!(read_some(&mut pair.dialled).await, Err(ErrorKind::ConnectionReset));
    // Told once; then it looks like the end, and writing fails.
    assert_eq!(read_some(&mut pair.dialled).await, Ok(0));
    assert_eq!(pair.dialled.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

async fn bytes_after_close_are_answered_with_a_reset() {
    let mut pair = pair().await;
    drop(pair.accepted);
    settle().await;
    // The kernel takes them, as it cannot know.
    pair.dialled.write_all(b"too late").await.unwrap();
    settle().await;
    assert_eq!(pair.dialled.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(read_some(&mut pair.dialled).await, Ok(0), "the peer had closed in good order before");
}

async fn nobody_listening_refuses() {
    let (one, _two) = (machine(1), machine(2));
    let (took, refused) = time(connect(&one, 2)).await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::ConnectionRefused);
    assert!(took > Duration::from_micros(400) && took < ms(20), "there and back: {took:?}");
    assert_eq!(side::connections(&one), Connections::default());
}

async fn an_address_of_no_machine_is_unreachable() {
    let one = machine(1);
    let (took, unreachable) = time(connect(&one, 9)).await;
    assert_eq!(unreachable.err().unwrap().kind(), ErrorKind::HostUnreachable);
    assert!(took >= Duration::from_secs(3));
}

async fn ports_are_taken_once_and_given_back() {
    let two = machine(2);
    let bind = |port: u16| two.spawn(async move { TcpListener::bind((address(2).ip(), port).into()).await });
    let first = bind(7000).await.unwrap();
    assert_eq!(bind(7000).await.err().unwrap().kind(), ErrorKind::AddrInUse);
    let other = bind(0).await.unwrap();
    assert!(other.local_addr().unwrap().port() >= 32768);
    drop(first);
    bind(7000).await.unwrap();
    let foreign = two.spawn(async { TcpListener::bind(address(3)).await }).await;
    assert_eq!(foreign.err().unwrap().kind(), ErrorKind::AddrNotAvailable);
}

async fn within_a_machine_it_is_near() {
    let one = machine(1);
    let listener = listen(&one, 1).await;
    let (took, stream) = time(connect(&one, 1)).await;
    let mut stream = stream.unwrap();
    assert!(took < ms(1), "{took:?}");
    let (mut accepted, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip(), address(1).ip());
    // Cut off from everybody, it still reaches itself.
    let two = machine(2);
    side::partition(&[one.clone(), two.clone()], &[one.clone(), two]);
    let (took, _) = time(async {
        stream.write_all(&[3; 5000]).await.unwrap();
        read(&mut accepted, 5000).await;
    })
    .await;
    assert!(took < ms(1), "{took:?}");
}

async fn bandwidth_is_shared() {
    let (one, two) = (machine(1), machine(2));
    let listener = listen(&two, 2).await;
    let narrow = Link { bytes_per_second: Some(1_000_000), ..Link::calm(ms(1)..ms(2)) };
    side::set_link(&one, &two, narrow);
    let send = |bytes: usize| {
        let (one, listener) = (one.clone(), &listener);
        async move {
            let mut stream = connect(&one, 2).await.unwrap();
            let (mut accepted, _) = listener.accept().await.unwrap();
            let receiving = runtime::task::spawn(async move { read(&mut accepted, bytes).await });
            stream.write_all(&vec![5; bytes]).await.unwrap();
            receiving.await;
        }
    };
    let (alone, ()) = time(send(1_000_000)).await;
    assert!(alone > ms(990) && alone < ms(1200), "{alone:?}");
    let (together, _) = time(async { futures::join!(send(500_000), send(500_000)) }).await;
    assert!(together > ms(990) && together < ms(1200), "{together:?}");
    // The way back is as wide as ever.
    let back = connect(&two, 2);
    let (took, _) = time(back).await;
    assert!(took < ms(10));
}

async fn each_direction_has_its_own_latency() {
    let mut pair = pair().await;
    side::set_link(&pair.one, &pair.two, Link::calm(ms(100)..ms(110)));
    let (took, _) = time(async {
        pair.dialled.write_all(b"ping").await.unwrap();
        read(&mut pair.accepted, 4).await;
    })
    .await;
    assert!(took >= ms(100) && took < ms(111), "{took:?}");
    let (took, _) = time(async {
        pair.accepted.write_all(b"pong").await.unwrap();
        read(&mut pair.dialled, 4).await;
    })
    .await;
    assert!(took < ms(5), "{took:?}");
    side::clear_link(&pair.one, &pair.two);
    side::set_default_link(Link { tail: Some((0.3, ms(500)..ms(600))), ..Link::calm(ms(1)..ms(2)) });
    let mut long = 0;
    for _ in 0..100 {
        let (took, _) = time(async {
            pair.dialled.write_all(b"ping").await.unwrap();
            read(&mut pair.accepted, 4).await;
        })
        .await;
        assert!(took < ms(3) || (took >= ms(501) && took < ms(603)), "{took:?}");
        long += usize::from(took >= ms(500));
    }
    assert!((15..45).contains(&long), "{long} of 100");
}

async fn losses_delay_and_never_lose_bytes() {
    let mut pair = pair().await;
    let sent: Vec<u8> = (0..200_000_u32).map(|number| (number / 7) as u8).collect();
    side::set_link(&pair.one, &pair.two, Link { loss: 0.5, ..Link::calm(ms(1)..ms(2)) });
    let (expected, mut dialled) = (sent.clone(), pair.dialled);
    let sending = runtime::task::spawn(async move {
        for part in sent.chunks(2000) {
            dialled.write_all(part).await.unwrap();
            sleep(ms(1)).await;
        }
    });
    let (took, received) = time(read(&mut pair.accepted, expected.len())).await;
    assert!(received == expected);
    assert!(took > ms(400) && took < Duration::from_secs(20), "{took:?}");
    sending.await;
}

async fn connections_overtake_one_another() {
    let (one, two) = (machine(1), machine(2));
    let listener = listen(&two, 2).await;
    side::set_default_link(Link::calm(ms(1)..ms(100)));
    let mut overtaken = 0;
    for _ in 0..20 {
        let mut pairs = Vec::new();
        for _ in 0..2 {
            let stream = connect(&one, 2).await.unwrap();
            pairs.push((stream, listener.accept().await.unwrap().0));
        }
        let mut arrivals = Vec::new();
        for (mut stream, mut accepted) in pairs {
            stream.write_all(b"x").await.unwrap();
            arrivals.push(runtime::task::spawn(async move {
                read(&mut accepted, 1).await;
                let arrived = now();
                drop(stream);
                arrived
            }));
        }
        let second = arrivals.pop().unwrap().await;
        overtaken += usize::from(second < arrivals.pop().unwrap().await);
    }
    assert!((3..17).contains(&overtaken), "{overtaken} of 20");
}

async fn a_slow_listener_lets_connections_wait() {
    let (one, two) = (machine(1), machine(2));
    let listener = listen(&two, 2).await;
    side::set_slow_accept(&two, Duration::from_secs(1));
    let mut streams = Vec::new();
    for _ in 0..5 {
        // The kernel answers; the process is what is slow.
        let (took, stream) = time(connect(&one, 2)).await;
        assert!(took < ms(20));
        streams.push(stream.unwrap());
    }
    settle().await;
    let (took, ()) = time(async {
        for _ in 0..5 {
            listener.accept().await.unwrap();
        }
    })
    .await;
    assert!(took > ms(4900) && took < ms(5100), "{took:?}");
    side::set_slow_accept(&two, Duration::ZERO);
    streams.push(connect(&one, 2).await.unwrap());
    assert!(!hangs(ms(20), listener.accept()).await);
}

async fn a_full_backlog_hears_no_calls() {
    let (one, two) = (machine(1), machine(2));
    let listener = listen(&two, 2).await;
    let mut streams = Vec::new();
    while let Ok(stream) = timeout(ms(500), connect(&one, 2)).await {
        streams.push(stream.unwrap());
        assert!(streams.len() <= 1000, "there is a limit");
    }
    let late = one.spawn(async { TcpStream::connect(address(2)).await });
    sleep(Duration::from_secs(5)).await;
    assert_eq!(side::connections(&one).connecting, 1);
    assert!(!late.is_finished());
    for _ in 0..10 {
        listener.accept().await.unwrap();
    }
    // It calls again at 1, 3 and 7 seconds.
    let (took, stream) = time(late).await;
    stream.unwrap();
    assert!(took > ms(1500) && took < ms(2500), "{took:?}");
}

async fn a_closed_listener_resets_who_was_not_accepted() {
    let (one, two) = (machine(1), machine(2));
    let listener = listen(&two, 2).await;
    let mut stream = connect(&one, 2).await.unwrap();
    settle().await;
    drop(listener);
    assert_eq!(read_some(&mut stream).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(connect(&one, 2).await.err().unwrap().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(side::connections(&two), Connections::default());
}

async fn an_abandoned_call_leaves_nothing_behind() {
    let (one, two) = (machine(1), machine(2));
    let listener = listen(&two, 2).await;
    side::set_default_link(Link::calm(ms(50)..ms(60)));
    assert!(hangs(ms(20), connect(&one, 2)).await);
    assert!(hangs(Duration::from_secs(2), listener.accept()).await, "the handshake was not finished");
    assert_eq!(side::connections(&one), Connections::default());
    assert_eq!(side::connections(&two), Connections::default());
    assert!(connect(&one, 2).await.is_ok());
}

/// How long each byte took on a connection, while another one of the same link is silent or busy. Printed: the two must be
/// the same.
async fn arrivals(is_busy: bool) {
    let (one, two) = (machine(1), machine(2));
    let listener = listen(&two, 2).await;
    let mut other = connect(&one, 2).await.unwrap();
    let (mut other_end, _) = listener.accept().await.unwrap();
    let mut stream = connect(&one, 2).await.unwrap();
    let (mut end, _) = listener.accept().await.unwrap();
    let mut took = Vec::new();
    for _ in 0..30 {
        if is_busy {
            other.write_all(b"noise").await.unwrap();
        }
        let begun = now();
        stream.write_all(b"x").await.unwrap();
        read(&mut end, 1).await;
        took.push(begun.elapsed().as_micros());
        if is_busy {
            read(&mut other_end, 5).await;
        }
    }
    println!("{ARRIVALS}{}", took.iter().map(u128::to_string).collect::<Vec<_>>().join(" "));
}
