//! Merging the listings of a bucket's partitions into one page.
//!
//! Always holds: a line is emitted only when no partition can have a smaller one: each has one itself, is exhausted, or has
//! walked past it. A page that ends early says how far all partitions have come, and has come further than the one before.
//! Partitions hold disjoint keys; a common prefix that several of them give is emitted once.

use futures::future::join_all;
use runtime::{planted, probe};
use std::collections::VecDeque;
use std::future::Future;

use crate::Error;
use crate::commands::{Line, Page};

/// Where a listing goes on in one partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Position {
    /// Behind the line at this place. `None`: no line was given yet.
    pub after: Option<(String, Option<u128>)>,
    /// And behind this key, up to which there is no other line: [`Page::passed`].
    pub passed: Option<String>,
}

/// What one partition has given and the page has not used yet.
struct Source<L> {
    lines: VecDeque<L>,
    asked: bool,
    truncated: bool,
    /// Up to this key it has nothing behind `lines`, if there are none.
    passed: Option<String>,
}

/// A page of at most `max` lines of `partitions` listings. `fetch` asks one partition for a page of so many lines
/// behind a position. Once each was asked, none is asked again when it is `enough`.
pub(crate) async fn page<L, F>(
    partitions: usize,
    max: usize,
    enough: impl Fn() -> bool,
    fetch: impl Fn(usize, Position, u32) -> F,
) -> Result<Page<L>, Error>
where
    L: Line,
    F: Future<Output = Result<Page<L>, Error>>,
{
    let mut entries: Vec<L> = Vec::with_capacity(max.min(protocol::limits::LIST_KEYS_MAX));
    if max == 0 {
        return Ok(Page { entries, truncated: false, passed: None, read: 0 });
    }
    let mut read = 0_u32;
    let mut sources: Vec<Source<L>> =
        (0..partitions).map(|_| Source { lines: VecDeque::new(), asked: false, truncated: true, passed: None }).collect();
    loop {
        while let Some(line) = take_certain(&mut sources) {
            entries.push(line);
            if entries.len() == max {
                let truncated = sources.iter().any(|source| source.truncated || !source.lines.is_empty());
                return Ok(Page { entries, truncated, passed: None, read });
            }
        }
        let dry = dry(&sources);
        if dry.is_empty() {
            return Ok(Page { entries, truncated: false, passed: None, read });
        }
        if sources.iter().all(|source| source.asked) && enough() {
            probe!("list-page-cut-short");
            // The last entry says where to go on, if there is one. Else nobody has given a line that is not behind this key.
            let passed = dry.iter().filter_map(|index| sources[*index].passed.clone()).min().filter(|_| entries.is_empty());
            return Ok(Page { entries, truncated: true, passed, read });
        }
        if !entries.is_empty() {
            probe!("list-asked-a-partition-twice-for-one-page");
        }
        let count = share(max - entries.len(), partitions);
        // Behind what was emitted, whoever gave it: also past a common prefix that this partition would give once more.
        let after = entries.last().map(Line::place).map(|(name, place)| (name.to_string(), place));
        let position = |index: usize| Position { after: after.clone(), passed: sources[index].passed.clone() };
        let pages = join_all(dry.iter().map(|index| fetch(*index, position(*index), count))).await;
        for (index, page) in dry.into_iter().zip(pages) {
            let page = page?;
            read = read.saturating_add(page.read);
            sources[index].refill(page)?;
        }
    }
}

/// How many lines to ask of each partition when `wanted` are wanted of all: its fair share and four deviations, as
/// hashes spread keys evenly. Who holds more is asked again.
fn share(wanted: usize, partitions: usize) -> u32 {
    let fair = wanted.div_ceil(partitions);
    let ask = if partitions == 1 { wanted } else { wanted.min(fair + 4 * fair.isqrt() + 4) };
    u32::try_from(ask).unwrap_or(u32::MAX)
}

/// The partitions that may have more and have given nothing that is left.
fn dry<L>(sources: &[Source<L>]) -> Vec<usize> {
    let forgotten = planted("list-merged-past-truncated-partition");
    let is_dry = |source: &Source<L>| source.lines.is_empty() && source.truncated && !(forgotten && source.asked);
    sources.iter().enumerate().filter(|(_, source)| is_dry(source)).map(|(index, _)| index).collect()
}

/// Take the smallest line, if no partition can have a smaller one, and drop the others that stand at its place.
fn take_certain<L: Line>(sources: &mut [Source<L>]) -> Option<L> {
    let smallest =
        (0..sources.len()).filter_map(|index| Some((sources[index].lines.front()?.place(), index))).min().map(|(_, index)| index)?;
    let (name, _) = sources[smallest].lines.front()?.place();
    let passes = |source: &Source<L>| source.passed.as_deref().is_some_and(|passed| name <= passed);
    if !dry(sources).into_iter().all(|index| passes(&sources[index])) {
        return None;
    }
    let line = sources[smallest].lines.pop_front()?;
    for source in sources {
        source.lines.pop_front_if(|other| other.place() == line.place());
    }
    Some(line)
}

impl<L: Line> Source<L> {
    fn refill(&mut self, page: Page<L>) -> Result<(), Error> {
        if page.entries.is_empty() && page.truncated && (page.passed.is_none() || page.passed <= self.passed) {
            return Err(Error::Unavailable("a partition gave a truncated page that goes nowhere".into()));
        }
        self.asked = true;
        self.truncated = page.truncated;
        self.passed = page.passed.filter(|_| page.entries.is_empty());
        self.lines = page.entries.into();
        Ok(())
    }
}
