//! Connections under faults: ends of processes, machines and links.

use super::simulated::*;
use runtime::io::AsyncWriteExt;
use runtime::net::TcpStream;
use runtime::side::{self, Connections, stream_for};
use runtime::time::sleep;
use std::io::ErrorKind;
use std::time::Duration;

pub const CLAIMS: &[Claim] = &[
    ("a-killed-process-says-goodbye-after-its-last-byte", || Box::pin(a_killed_process_says_goodbye())),
    ("a-killed-process-with-unread-bytes-resets", || Box::pin(a_killed_process_with_unread_bytes_resets())),
    ("a-killed-process-refuses-and-frees-its-ports", || Box::pin(a_killed_process_refuses())),
    ("a-dead-machine-is-silent-until-it-restarts", || Box::pin(a_dead_machine_is_silent())),
    ("a-dead-machine-sends-nothing-again", || Box::pin(a_dead_machine_sends_nothing_again())),
    ("calls-of-a-dead-machine-time-out", || Box::pin(calls_of_a_dead_machine_time_out())),
    ("power-cut-is-silent-too", || Box::pin(power_cut_is_silent_too())),
    ("a-paused-process-still-has-a-kernel", || Box::pin(a_paused_process_still_has_a_kernel())),
    ("a-block-is-one-way", || Box::pin(a_block_is_one_way())),
    ("bytes-of-a-blocked-link-come-when-they-are-sent-again", || Box::pin(blocked_bytes_come_when_sent_again())),
    ("room-is-not-heard-of-over-a-blocked-link", || Box::pin(room_is_not_heard_of_over_a_blocked_link())),
    ("a-reset-that-was-lost-is-asked-for-again", || Box::pin(a_reset_that_was_lost_is_asked_for_again())),
    ("blocks-add-up-and-heal-all-undoes-them", || Box::pin(blocks_add_up())),
    ("a-partition-may-be-partial", || Box::pin(a_partition_may_be_partial())),
    ("reset-connections-leaves-what-was-received", || Box::pin(reset_connections_leaves_what_was_received())),
];

async fn a_killed_process_says_goodbye() {
    let mut pair = pair().await;
    let mut dialled = pair.dialled;
    dialled.write_all(&[9; 100_000]).await.unwrap();
    // The bytes are not there yet.
    pair.one.kill();
    assert_eq!(dialled.write(b"zombie").await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert!(read(&mut pair.accepted, 100_000).await.iter().all(|byte| *byte == 9));
    assert_eq!(read_some(&mut pair.accepted).await, Ok(0));
    assert_eq!(side::connections(&pair.one), Connections::default());
    pair.accepted.write_all(b"anybody there?").await.unwrap();
    settle().await;
    assert_eq!(pair.accepted.write(b"no").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

async fn a_killed_process_with_unread_bytes_resets() {
    let mut pair = pair().await;
    pair.accepted.write_all(b"unread").await.unwrap();
    pair.dialled.write_all(b"some").await.unwrap();
    settle().await;
    pair.one.kill();
    settle().await;
    // What was delivered stays readable.
    assert_eq!(read_some(&mut pair.accepted).await, Ok(4));
    assert_eq!(read_some(&mut pair.accepted).await, Err(ErrorKind::ConnectionReset));
}

async fn a_killed_process_refuses() {
    let pair = pair().await;
    pair.two.kill();
    assert_eq!(connect(&pair.one, 2).await.err().unwrap().kind(), ErrorKind::ConnectionRefused);
    pair.two.restart();
    let again = listen(&pair.two, 2).await;
    let mut stream = connect(&pair.one, 2).await.unwrap();
    again.accept().await.unwrap();
    // The listener of the earlier life closes nothing of this one.
    drop(pair.listener);
    drop(pair.accepted);
    stream.write_all(b"x").await.unwrap();
    assert!(connect(&pair.one, 2).await.is_ok());
}

async fn a_dead_machine_is_silent() {
    let mut pair = pair().await;
    let mut idle = connect(&pair.one, 2).await.unwrap();
    let (_idle_end, _) = pair.listener.accept().await.unwrap();
    pair.two.kill_silently();
    assert!(hangs(Duration::from_secs(60), read_some(&mut pair.dialled)).await);
    assert_eq!(side::connections(&pair.one), Connections { half_open: 2, ..Connections::default() });
    assert_eq!(fill(&mut pair.dialled).await, WINDOW);
    assert!(hangs(Duration::from_secs(60), connect(&pair.one, 2)).await);
    pair.two.restart();
    // Sent at 0, again after 0.2, 0.6, 1.4, ... 51, 102.2 seconds: somebody answers now, and knows nothing.
    let (took, ()) = time(async { while hangs(Duration::from_secs(1), read_some_once(&mut pair.dialled)).await {} }).await;
    assert!(took > Duration::from_secs(10) && took < Duration::from_secs(110), "{took:?}");
    // The other one sent nothing, and heard nothing.
    assert!(hangs(Duration::from_secs(600), read_some_once(&mut idle)).await);
    assert_eq!(side::connections(&pair.one), Connections { half_open: 1, ..Connections::default() });
    idle.write_all(b"x").await.unwrap();
    assert_eq!(read_some(&mut idle).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(connect(&pair.one, 2).await.err().unwrap().kind(), ErrorKind::ConnectionRefused);
}

async fn read_some_once(stream: &mut TcpStream) {
    use runtime::io::AsyncReadExt;
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

async fn a_dead_machine_sends_nothing_again() {
    let mut pair = pair().await;
    side::block(&pair.one, &pair.two);
    pair.dialled.write_all(b"lost").await.unwrap();
    settle().await;
    pair.one.kill_silently();
    side::unblock(&pair.one, &pair.two);
    assert!(hangs(Duration::from_secs(29), read_some(&mut pair.accepted)).await);
}

async fn calls_of_a_dead_machine_time_out() {
    let (one, two) = (machine(1), machine(2));
    two.kill_silently();
    let (took, timed_out) = time(connect(&one, 2)).await;
    assert_eq!(timed_out.err().unwrap().kind(), ErrorKind::TimedOut);
    assert!(took > Duration::from_secs(126) && took < Duration::from_secs(128), "{took:?}");
}

async fn power_cut_is_silent_too() {
    let mut pair = pair().await;
    pair.two.cut_power(&mut stream_for(1, "power", 0, 0));
    assert!(hangs(Duration::from_secs(20), read_some(&mut pair.dialled)).await);
    pair.dialled.write_all(b"hello?").await.unwrap();
    settle().await;
    pair.two.restart();
    assert_eq!(read_some(&mut pair.dialled).await, Err(ErrorKind::ConnectionReset));
}

async fn a_paused_process_still_has_a_kernel() {
    let mut pair = pair().await;
    pair.two.pause();
    let other = connect(&pair.one, 2).await;
    assert!(other.is_ok(), "the backlog takes it");
    assert_eq!(fill(&mut pair.dialled).await, WINDOW);
    pair.two.resume();
    let accepted = pair.two.spawn(async move {
        read(&mut pair.accepted, WINDOW).await;
        pair.accepted
    });
    let _accepted = accepted.await;
    settle().await;
    assert_eq!(fill(&mut pair.dialled).await, WINDOW);
}

async fn a_block_is_one_way() {
    let mut pair = pair().await;
    side::partition_one_way(&[pair.one.clone()], &[pair.two.clone()]);
    pair.accepted.write_all(b"heard").await.unwrap();
    assert_eq!(read(&mut pair.dialled, 5).await, b"heard");
    pair.dialled.write_all(b"unheard").await.unwrap();
    assert!(hangs(Duration::from_secs(20), read_some(&mut pair.accepted)).await);
    // A call needs both directions, whoever calls.
    let _listener = listen(&pair.one, 1).await;
    assert!(hangs(Duration::from_secs(3), connect(&pair.one, 2)).await);
    assert!(hangs(Duration::from_secs(3), connect(&pair.two, 1)).await);
    settle().await;
    assert_eq!(side::connections(&pair.two).connecting, 0);
    assert_eq!(side::connections(&pair.one).connecting, 1, "it answered a call, and nobody hears the answer");
    side::unblock(&pair.one, &pair.two);
    assert_eq!(read(&mut pair.accepted, 7).await, b"unheard");
    assert!(connect(&pair.one, 2).await.is_ok());
    assert!(connect(&pair.two, 1).await.is_ok());
}

async fn blocked_bytes_come_when_sent_again() {
    let mut pair = pair().await;
    side::partition(&[pair.one.clone()], &[pair.two.clone()]);
    pair.dialled.write_all(b"first").await.unwrap();
    sleep(ms(2500)).await;
    pair.dialled.write_all(b"second").await.unwrap();
    side::heal(&[pair.one.clone()], &[pair.two.clone()]);
    // Sent again after 0.2, 0.6, 1.4 and 3 seconds.
    let (took, bytes) = time(read(&mut pair.accepted, 11)).await;
    assert_eq!(bytes, b"firstsecond");
    assert!(took > ms(450) && took < ms(550), "{took:?}");
}

async fn room_is_not_heard_of_over_a_blocked_link() {
    let mut pair = pair().await;
    side::block(&pair.two, &pair.one);
    assert_eq!(fill(&mut pair.dialled).await, WINDOW);
    read(&mut pair.accepted, WINDOW).await;
    settle().await;
    assert_eq!(fill(&mut pair.dialled).await, 0);
    side::unblock(&pair.two, &pair.one);
    settle().await;
    assert_eq!(fill(&mut pair.dialled).await, WINDOW);
}

async fn a_reset_that_was_lost_is_asked_for_again() {
    let mut pair = pair().await;
    pair.dialled.write_all(b"unread").await.unwrap();
    settle().await;
    side::block(&pair.two, &pair.one);
    drop(pair.accepted);
    settle().await;
    side::unblock(&pair.two, &pair.one);
    // It was lost, and nobody sends it again.
    assert!(hangs(Duration::from_secs(20), read_some(&mut pair.dialled)).await);
    assert_eq!(side::connections(&pair.one).half_open, 1);
    side::block(&pair.two, &pair.one);
    pair.dialled.write_all(b"x").await.unwrap();
    assert!(hangs(Duration::from_secs(5), read_some(&mut pair.dialled)).await);
    side::unblock(&pair.two, &pair.one);
    assert_eq!(read_some(&mut pair.dialled).await, Err(ErrorKind::ConnectionReset));
}

async fn blocks_add_up() {
    let mut pair = pair().await;
    let (one, two) = ([pair.one.clone()], [pair.two.clone()]);
    side::partition(&one, &two);
    side::partition(&one, &two);
    side::heal(&one, &two);
    pair.dialled.write_all(b"x").await.unwrap();
    assert!(hangs(Duration::from_secs(2), read_some(&mut pair.accepted)).await);
    side::heal_all();
    assert_eq!(read_some(&mut pair.accepted).await, Ok(1));
    // More is undone than was done: nothing is owed.
    side::heal(&one, &two);
    side::partition(&one, &two);
    pair.dialled.write_all(b"x").await.unwrap();
    assert!(hangs(Duration::from_secs(2), read_some(&mut pair.accepted)).await);
}

async fn a_partition_may_be_partial() {
    let mut pair = pair().await;
    let three = machine(3);
    let _listener = listen(&three, 3).await;
    side::partition(&[pair.one.clone()], std::slice::from_ref(&three));
    pair.dialled.write_all(b"x").await.unwrap();
    assert_eq!(read_some(&mut pair.accepted).await, Ok(1));
    assert!(connect(&pair.two, 3).await.is_ok());
    assert!(hangs(Duration::from_secs(3), connect(&pair.one, 3)).await);
}

async fn reset_connections_leaves_what_was_received() {
    let mut pair = pair().await;
    pair.dialled.write_all(b"received").await.unwrap();
    settle().await;
    pair.dialled.write_all(b"under way").await.unwrap();
    side::reset_connections(&pair.two, &pair.one);
    assert_eq!(read(&mut pair.accepted, 8).await, b"received");
    assert_eq!(read_some(&mut pair.accepted).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(read_some(&mut pair.dialled).await, Err(ErrorKind::ConnectionReset));
    assert!(connect(&pair.one, 2).await.is_ok());
}
