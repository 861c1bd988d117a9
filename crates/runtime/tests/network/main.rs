//! The simulated network behaves as kernels and wires do, and calls between nodes bear it: one claim each, each in two
//! processes that must agree.
//!
//! `NAME` runs the claims whose name contains it.
#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "a test: what fails here fails it")]

#[cfg(madsim)]
mod calls;
#[cfg(madsim)]
mod claims;
#[cfg(madsim)]
mod faults;

fn main() {
    #[cfg(madsim)]
    simulated::main();
}

#[cfg(madsim)]
mod simulated {
    use runtime::io::{AsyncReadExt, AsyncWriteExt};
    use runtime::net::{TcpListener, TcpStream};
    use runtime::side::{self, Machine};
    use runtime::time::{now, sleep, timeout};
    use std::future::Future;
    use std::net::{IpAddr, SocketAddr};
    use std::pin::Pin;
    use std::time::Duration;

    pub type Claim = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

    /// Bytes that may be under way or unread.
    pub const WINDOW: usize = 256 << 10;

    /// These two print when bytes of one connection arrived; another connection must not make a difference.
    pub const BESIDE_SILENCE: &str = "arrivals-beside-silence";
    pub const BESIDE_NOISE: &str = "arrivals-beside-noise";
    pub const ARRIVALS: &str = "arrivals: ";

    pub fn main() {
        side::pin_address_space();
        let arguments: Vec<String> = std::env::args().collect();
        let claims = || super::claims::CLAIMS.iter().chain(super::faults::CLAIMS).chain(super::calls::CLAIMS);
        if let Some(only) = arguments.iter().position(|argument| argument == "--claim") {
            let (_, claim) = claims().find(|(name, _)| *name == arguments[only + 1]).expect("a claim");
            side::run(side::Settings::new(7), claim);
            println!("{:016x} {} events", side::event_hash(), side::event_count());
            return;
        }
        let run = |name: &str| {
            let program = std::env::current_exe().expect("this program");
            let output = std::process::Command::new(program).args(["--claim", name]).output().expect("a child");
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text")
        };
        let wanted = arguments.iter().skip(1).find(|argument| !argument.starts_with('-'));
        for (name, _) in claims().filter(|(name, _)| wanted.is_none_or(|wanted| name.contains(wanted.as_str()))) {
            let (first, second) = (run(name), run(name));
            assert_eq!(first, second, "{name} in two processes");
            println!("{name}: {}", first.lines().last().unwrap_or_default());
        }
        let arrivals = |name| -> Vec<i64> {
            let printed = run(name);
            let line = printed.lines().find_map(|line| line.strip_prefix(ARRIVALS)).expect("arrivals");
            line.split(' ').map(|number| number.parse().expect("a number")).collect()
        };
        // Each task that runs takes some nanoseconds.
        let same = arrivals(BESIDE_SILENCE).iter().zip(arrivals(BESIDE_NOISE)).all(|(one, other)| (one - other).abs() < 5);
        assert!(same, "what one connection draws does not shift another: {:?} {:?}", arrivals(BESIDE_SILENCE), arrivals(BESIDE_NOISE));
    }

    /// A machine that does nothing by itself.
    pub fn machine(number: u8) -> Machine {
        Machine::start(&format!("machine {number}"), IpAddr::from([10, 0, 0, number]), vec![], std::future::pending::<()>)
    }

    pub fn address(number: u8) -> SocketAddr {
        SocketAddr::new(IpAddr::from([10, 0, 0, number]), 7000)
    }

    pub async fn listen(machine: &Machine, number: u8) -> TcpListener {
        machine.spawn(async move { TcpListener::bind(address(number)).await.unwrap() }).await
    }

    pub async fn connect(machine: &Machine, number: u8) -> std::io::Result<TcpStream> {
        machine.spawn(async move { TcpStream::connect(address(number)).await }).await
    }

    /// A connection from machine 1 to machine 2, and what listens there.
    pub struct Pair {
        pub one: Machine,
        pub two: Machine,
        pub listener: TcpListener,
        pub dialled: TcpStream,
        pub accepted: TcpStream,
    }

    pub async fn pair() -> Pair {
        let (one, two) = (machine(1), machine(2));
        let listener = listen(&two, 2).await;
        let dialled = connect(&one, 2).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        Pair { one, two, listener, dialled, accepted }
    }

    pub fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Whether `future` is not ready within `wait`.
    pub async fn hangs<F: Future>(wait: Duration, future: F) -> bool {
        timeout(wait, future).await.is_err()
    }

    pub async fn read(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        timeout(Duration::from_secs(30), stream.read_exact(&mut read)).await.expect("in time").expect("all of them");
        read
    }

    /// What `read` says next: bytes, 0 at the end, or why not.
    pub async fn read_some(stream: &mut TcpStream) -> Result<usize, std::io::ErrorKind> {
        let mut bytes = [0; 1000];
        stream.read(&mut bytes).await.map_err(|error| error.kind())
    }

    /// Write until it takes more than a second; how much went.
    pub async fn fill(stream: &mut TcpStream) -> usize {
        let mut written = 0;
        while let Ok(more) = timeout(Duration::from_secs(1), stream.write(&[1; 1000])).await {
            written += more.expect("taken");
        }
        written
    }

    /// Time that `future` takes.
    pub async fn time<T>(future: impl Future<Output = T>) -> (Duration, T) {
        let begun = now();
        let output = future.await;
        (begun.elapsed(), output)
    }

    /// Long enough for everything under way to arrive on a calm network.
    pub async fn settle() {
        sleep(ms(20)).await;
    }
}
