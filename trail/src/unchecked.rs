//! The lines of a trail as they stand in its files, for inspection.
//!
//! Nothing here proves anything: no signature is verified, and no leaf is compared. To rely on a
//! record, verify the trail, or request a proof.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use super::checkpoint::Checkpoint;
use super::files::{list, open, stated_end};
use super::segment::{self, Line};

/// One line of a trail, unproven.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum UncheckedLine<'a> {
    /// A line in the form of a checkpoint.
    Checkpoint(Checkpoint),
    /// A line in the form of a record, without its newline.
    Record(&'a [u8]),
    /// Anything else: torn or damaged.
    Unreadable,
}

/// Shows the lines of the trail in `dir` in order, each with the number of its segment, until
/// `visit` returns [`ControlFlow::Break`]. Skips lines that a later segment declares void: they
/// were never acknowledged, and may occur again later.
///
/// The directory and the segments are read while they may still be written. Memory is a chunk of
/// lines, some 256 KiB.
///
/// # Errors
///
/// The system's error if the directory or a segment cannot be read, or
/// [`NotFound`](io::ErrorKind::NotFound) if there is no segment.
pub fn read_unchecked(
    dir: impl AsRef<Path>,
    visit: &mut dyn FnMut(u64, UncheckedLine<'_>) -> ControlFlow<()>,
) -> io::Result<()> {
    read_unchecked_in(dir.as_ref(), visit)
}

fn read_unchecked_in(
    dir: &Path,
    visit: &mut dyn FnMut(u64, UncheckedLine<'_>) -> ControlFlow<()>,
) -> io::Result<()> {
    let numbers = list(dir)?;
    if numbers.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the directory holds no segment of a trail",
        ));
    }
    let mut flow = ControlFlow::Continue(());
    for (index, number) in numbers.iter().copied().enumerate() {
        let next = numbers.get(index.saturating_add(1)).copied();
        let end = stated_end(dir, number, next);
        segment::each_line(open(dir, number)?, end, &mut |line| {
            flow = visit(
                number,
                match line {
                    Line::Checkpoint(Ok(checkpoint)) => UncheckedLine::Checkpoint(checkpoint),
                    Line::Record(_, line) => UncheckedLine::Record(line),
                    Line::Checkpoint(Err(_)) | Line::Torn | Line::Unreadable(_) => {
                        UncheckedLine::Unreadable
                    }
                },
            );
            flow
        })?;
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}
