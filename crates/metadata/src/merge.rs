//! Merging the listings of a bucket's partitions into one page.
//!
//! Always holds: a line is emitted only when every partition that may have a smaller one has been asked for it: a
//! page goes no further than the smallest last line of a truncated partition, and that partition is asked for more.
//! Partitions hold disjoint keys; a common prefix that several of them give is emitted once.

use futures::future::join_all;
use runtime::{planted, probe};
use std::collections::VecDeque;
use std::future::Future;

use crate::Error;
use crate::commands::{Line, Page};

/// Where a listing goes on.
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
    /// Behind what was given. `None`: it was not asked yet.
    position: Option<Position>,
    truncated: bool,
}

/// A page of at most `max` lines of `partitions` listings. `fetch` asks one partition for a page of so many lines
/// behind a position.
pub(crate) async fn page<L, F>(partitions: usize, max: usize, fetch: impl Fn(usize, Option<Position>, u32) -> F) -> Result<Page<L>, Error>
where
    L: Line,
    F: Future<Output = Result<Page<L>, Error>>,
{
    let mut entries: Vec<L> = Vec::with_capacity(max.min(protocol::limits::LIST_KEYS_MAX));
    if max == 0 {
        return Ok(Page { entries, truncated: false, passed: None, read: 0 });
    }
    let mut read = 0_u32;
    let mut sources: Vec<Source<L>> = (0..partitions).map(|_| Source { lines: VecDeque::new(), position: None, truncated: true }).collect();
    loop {
        let dry = dry(&sources);
        if !dry.is_empty() {
            if !entries.is_empty() {
                probe!("list-asked-a-partition-twice-for-one-page");
            }
            let count = share(max - entries.len(), partitions);
            let pages = join_all(dry.iter().map(|index| fetch(*index, sources[*index].position.clone(), count))).await;
            for (index, page) in dry.into_iter().zip(pages) {
                let page = page?;
                read = read.saturating_add(page.read);
                sources[index].refill(page)?;
            }
            continue;
        }
        let Some(line) = take_smallest(&mut sources) else {
            return Ok(Page { entries, truncated: false, passed: None, read });
        };
        entries.push(line);
        if entries.len() == max {
            let truncated = sources.iter().any(|source| source.truncated || !source.lines.is_empty());
            return Ok(Page { entries, truncated, passed: None, read });
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

/// The partitions that must be asked before the next line is certain.
fn dry<L>(sources: &[Source<L>]) -> Vec<usize> {
    let forgotten = planted("list-merged-past-truncated-partition");
    let is_dry = |source: &Source<L>| source.lines.is_empty() && source.truncated && !(forgotten && source.position.is_some());
    sources.iter().enumerate().filter(|(_, source)| is_dry(source)).map(|(index, _)| index).collect()
}

/// Take the smallest line, and drop the others that stand at its place.
fn take_smallest<L: Line>(sources: &mut [Source<L>]) -> Option<L> {
    let smallest =
        (0..sources.len()).filter_map(|index| Some((sources[index].lines.front()?.place(), index))).min().map(|(_, index)| index)?;
    let line = sources[smallest].lines.pop_front()?;
    for source in sources {
        source.lines.pop_front_if(|other| other.place() == line.place());
    }
    Some(line)
}

impl<L: Line> Source<L> {
    fn refill(&mut self, page: Page<L>) -> Result<(), Error> {
        self.truncated = page.truncated;
        let position = self.position.get_or_insert_default();
        match page.entries.last() {
            Some(last) => {
                let (name, place) = last.place();
                *position = Position { after: Some((name.to_string(), place)), passed: None };
            }
            None if page.truncated && (page.passed.is_none() || page.passed <= position.passed) => {
                return Err(Error::Unavailable("a partition gave a truncated page that goes nowhere".into()));
            }
            None => position.passed = page.passed,
        }
        self.lines = page.entries.into();
        Ok(())
    }
}
