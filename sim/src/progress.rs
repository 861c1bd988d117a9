//! How far a long command is: a bar with the time left where people look, a line now and then where a log is written.
#![allow(clippy::disallowed_methods, reason = "outside of any simulation: the real clock")]

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Cells of the bar.
const CELLS: usize = 24;
/// A terminal is redrawn this often at most.
const REDRAW_EVERY: Duration = Duration::from_millis(200);
/// A log gets a line this often.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// Shows progress on stderr.
pub struct Progress {
    what: &'static str,
    terminal: bool,
    started: Instant,
    shown: Option<Instant>,
}

impl Progress {
    pub fn new(what: &'static str) -> Progress {
        Progress { what, terminal: std::io::stderr().is_terminal(), started: Instant::now(), shown: None }
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// `done` is the part from 0 to 1 that is done, `note` what else there is to say.
    pub fn show(&mut self, done: f64, note: &str) {
        let pause = if self.terminal { REDRAW_EVERY } else { LINE_EVERY };
        let due = self.shown.map_or(self.terminal, |shown| shown.elapsed() >= pause) || (self.shown.is_none() && self.elapsed() >= pause);
        if !due {
            return;
        }
        self.shown = Some(Instant::now());
        let line = format!("{} {} {note}", self.what, left(done, self.elapsed()));
        if self.terminal {
            eprint!("\r\x1b[K{} {line}", bar(done));
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    /// Take the bar away.
    pub fn end(&self) {
        if self.terminal && self.shown.is_some() {
            eprint!("\r\x1b[K");
            let _ = std::io::stderr().flush();
        }
    }

    /// Print a line above the bar.
    pub fn say(&mut self, line: &str) {
        self.end();
        println!("{line}");
        let _ = std::io::stdout().flush();
    }
}

fn bar(done: f64) -> String {
    let full = ((done.clamp(0.0, 1.0) * CELLS as f64) as usize).min(CELLS);
    format!("[{}{}]", "#".repeat(full), ".".repeat(CELLS - full))
}

fn left(done: f64, elapsed: Duration) -> String {
    let percent = (done.clamp(0.0, 1.0) * 100.0) as u32;
    if done <= 0.01 {
        return format!("{percent:>3} %");
    }
    let left = elapsed.as_secs_f64() * (1.0 - done).max(0.0) / done;
    if left < 90.0 { format!("{percent:>3} %, {left:.0} s left,") } else { format!("{percent:>3} %, {:.0} min left,", left / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_what_is_done() {
        assert_eq!(left(0.5, Duration::from_secs(30)), " 50 %, 30 s left,");
        assert_eq!(left(0.1, Duration::from_secs(60)), " 10 %, 9 min left,");
        assert_eq!(left(0.0, Duration::from_secs(60)), "  0 %");
        assert_eq!(bar(0.5).matches('#').count(), CELLS / 2);
    }
}
