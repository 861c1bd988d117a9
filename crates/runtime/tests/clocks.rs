//! Clocks of machines that are wrong.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, reason = "a test: what fails here fails it")]

use runtime::side::{self, Clock, Machine, Settings};
use runtime::time::{Instant, interval, now, since, sleep, sleep_until, timeout, wall_ms};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn simulate<F: Future<Output = ()>>(make: impl FnOnce() -> F + Send + 'static) {
    side::run(Settings { time_max: 24 * 3600 * SECOND, ..Settings::new(1) }, make);
}

fn machine(number: u8) -> Machine {
    Machine::start(&format!("node {number}"), IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)), Vec::new(), std::future::pending::<()>)
}

/// Both clocks of a machine.
async fn clocks(machine: &Machine) -> (Instant, u64) {
    machine.spawn(async { (now(), wall_ms()) }).await
}

fn near(found: Duration, wanted: Duration) -> bool {
    found.abs_diff(wanted) <= Duration::from_millis(5)
}

#[test]
fn a_jump_moves_the_wall_clock_of_one_machine_and_no_timer() {
    simulate(|| async {
        let (one, other) = (machine(1), machine(2));
        for offset_ms in [3_600_000, -3_600_000, 0] {
            one.set_clock(Clock { offset_ms, ..Clock::default() });
            let ((monotonic, wall), (_, right)) = (clocks(&one).await, clocks(&other).await);
            assert!((wall as i64 - right as i64 - offset_ms).abs() <= 1);
            assert!(near(monotonic.saturating_duration_since(now()), Duration::ZERO));
            let began = now();
            one.spawn(sleep(10 * SECOND)).await;
            assert!(near(now() - began, 10 * SECOND));
        }
    });
}

#[test]
fn all_timers_of_a_drifting_machine_run_at_its_pace() {
    simulate(|| async {
        let machine = machine(1);
        for drift_ppm in [500, -500, 250] {
            machine.set_clock(Clock { drift_ppm, ..Clock::default() });
            // A fast clock thinks that the time has come while there is some left.
            let wanted = Duration::from_micros((1000 * 1_000_000_u64).saturating_sub_signed(1000 * i64::from(drift_ppm)));
            let began = now();
            machine.spawn(sleep(1000 * SECOND)).await;
            assert!(near(now() - began, wanted), "{drift_ppm}: {:?}", now() - began);
            let began = now();
            machine.spawn(async { sleep_until(now() + 1000 * SECOND).await }).await;
            assert!(near(now() - began, wanted));
            let began = now();
            assert!(machine.spawn(timeout(1000 * SECOND, std::future::pending::<()>())).await.is_err());
            assert!(near(now() - began, wanted));
            let began = now();
            let ticking = async {
                let mut ticks = interval(100 * SECOND);
                for _ in 0..11 {
                    ticks.tick().await;
                }
            };
            machine.spawn(ticking).await;
            assert!(near(now() - began, wanted));
        }
    });
}

#[test]
fn both_clocks_of_a_drifting_machine_drift_and_never_go_back() {
    simulate(|| async {
        let machine = machine(1);
        let (monotonic, wall) = clocks(&machine).await;
        machine.set_clock(Clock { drift_ppm: 500, ..Clock::default() });
        sleep(2000 * SECOND).await;
        let (later, later_wall) = clocks(&machine).await;
        assert!(near(later - monotonic, 2001 * SECOND));
        assert!((later_wall - wall).abs_diff(2_001_000) <= 5);
        // What has drifted stays, and the clock never steps.
        machine.set_clock(Clock { drift_ppm: -500, ..Clock::default() });
        let (after, _) = clocks(&machine).await;
        assert!(after >= later && near(after - later, Duration::ZERO));
        sleep(2000 * SECOND).await;
        assert!(near(clocks(&machine).await.0 - monotonic, 4000 * SECOND));
    });
}

#[test]
fn a_frozen_clock_stands_while_timers_go_on() {
    simulate(|| async {
        let (machine, right) = (machine(1), machine(2));
        machine.set_clock(Clock { offset_ms: 500, ..Clock::default() });
        machine.set_clock(Clock { offset_ms: 500, frozen: true, ..Clock::default() });
        let (monotonic, wall) = clocks(&machine).await;
        let began = now();
        machine.spawn(sleep(30 * SECOND)).await;
        assert!(near(now() - began, 30 * SECOND));
        let (later, stands) = clocks(&machine).await;
        assert_eq!(stands, wall);
        assert!(near(later - monotonic, 30 * SECOND));
        // It may be set while it stands.
        machine.set_clock(Clock { offset_ms: 10_000, frozen: true, ..Clock::default() });
        let set = clocks(&machine).await.1;
        assert!((set - clocks(&right).await.1).abs_diff(10_000) <= 1);
        machine.set_clock(Clock::default());
        assert_eq!(clocks(&machine).await.1, clocks(&right).await.1);
        assert_eq!(machine.clock(), Clock::default());
    });
}

#[test]
fn a_clock_stays_wrong_when_its_machine_starts_again() {
    simulate(|| async {
        let machine = machine(1);
        machine.set_clock(Clock { offset_ms: 5000, drift_ppm: 100, frozen: false });
        machine.kill();
        machine.restart();
        let wall = clocks(&machine).await.1;
        assert!((wall - wall_ms()).abs_diff(5000) <= 1);
    });
}

#[test]
#[should_panic(expected = "millionths")]
fn a_clock_that_drifts_too_much_is_refused() {
    simulate(|| async { machine(1).set_clock(Clock { drift_ppm: 501, ..Clock::default() }) });
}

#[test]
fn time_since_an_instant_goes_at_the_pace_of_the_clock_that_it_was_read_from() {
    simulate(|| async {
        let machine = machine(1);
        machine.set_clock(Clock { drift_ppm: 500, ..Clock::default() });
        sleep(20_000 * SECOND).await;
        let passed = machine.spawn(async {
            let begun = now();
            sleep(SECOND).await;
            assert_eq!(since(begun + SECOND * 3600), Duration::ZERO, "it lies ahead");
            since(begun)
        });
        // By the true time it would be wrong by 10 s.
        assert!(near(passed.await, SECOND));
    });
}
