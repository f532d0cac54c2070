//! Streams of every length, readers that end too early or too late, and failures on the way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 % 253) as u8).collect()
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn no_sink(_: u64, _: &[u8]) -> Result<(), &'static str> {
    Ok(())
}

/// A sink that takes chunks in any order, and assembles them.
#[derive(Default)]
struct Arrived(Mutex<BTreeMap<u64, Vec<u8>>>);

impl Arrived {
    fn take(&self, offset: u64, chunk: &[u8]) -> Result<(), &'static str> {
        let before = self.0.lock().unwrap().insert(offset, chunk.to_vec());
        assert_eq!(before, None, "twice");
        Ok(())
    }

    fn whole(self) -> Vec<u8> {
        let mut whole = Vec::new();
        for (offset, chunk) in self.0.into_inner().unwrap() {
            assert_eq!(offset, whole.len() as u64);
            whole.extend(chunk);
        }
        whole
    }
}

#[test]
fn a_stream_has_the_tree_and_the_sha256_of_its_bytes_and_arrives_whole() {
    let lens = [
        0,
        1,
        4096,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        23 * CHUNK_BYTES + 4097,
    ];
    let tried = if cfg!(miri) { 2 } else { lens.len() };
    for len in lens.into_iter().take(tried) {
        let bytes = data(len);
        let tree = Tree::of_slice(&bytes, go_on).unwrap();
        let sha256 = StreamDigest::from_bytes(Sha256::digest(&bytes).into());
        let total = len as u64;
        for is_slice in [false, true] {
            let arrived = Arrived::default();
            let sink = |offset, chunk: &[u8]| arrived.take(offset, chunk);
            let mut told = Vec::new();
            let tell = |progress| {
                told.push(progress);
                ControlFlow::Continue(())
            };
            let streamed = if is_slice {
                read_slice(&bytes, total, sink, tell).unwrap()
            } else {
                read_stream(&bytes[..], total, Stream::WithSha256, sink, tell).unwrap()
            };
            assert!(arrived.whole() == bytes);
            assert_eq!(streamed.tree.digest(), tree.digest(), "{len} bytes");
            assert_eq!(streamed.tree.damaged(&tree), []);
            assert_eq!(streamed.sha256, (!is_slice).then_some(sha256));
            assert!(told.is_sorted_by_key(|progress| progress.done));
            if len > 0 {
                assert_eq!(told.last(), Some(&Progress { done: total, total }));
            }
        }
    }
}

#[test]
fn the_plain_sha256_is_not_computed_unless_asked_for() {
    let streamed = read_stream(&[1][..], 1, Stream::TreeOnly, no_sink, go_on).unwrap();
    assert_eq!(streamed.sha256, None);
}

#[test]
#[cfg_attr(miri, ignore = "hashes too much")]
fn a_stream_of_another_length_is_refused() {
    let bytes = data(3 * CHUNK_BYTES);
    for (len, missing) in [(bytes.len() + 1, 1), (5 * CHUNK_BYTES, 2 * CHUNK_BYTES)] {
        let result = read_stream(&bytes[..], len as u64, Stream::TreeOnly, no_sink, go_on);
        let Err(StreamError::TooShort { expected, got }) = result else {
            panic!("{result:?}");
        };
        assert_eq!(expected - got, missing as u64);
    }
    for len in [0, 1, CHUNK_BYTES, bytes.len() - 1] {
        let result = read_stream(&bytes[..], len as u64, Stream::TreeOnly, no_sink, go_on);
        assert!(matches!(result, Err(StreamError::TooLong { expected }) if expected == len as u64));
    }
    for (len, is_longer) in [(bytes.len() + 1, false), (bytes.len() - 1, true)] {
        match read_slice(&bytes, len as u64, no_sink, go_on) {
            Err(StreamError::TooShort { expected, got }) if !is_longer => {
                assert_eq!(expected - got, 1);
            }
            Err(StreamError::TooLong { expected }) if is_longer => {
                assert_eq!(expected, len as u64);
            }
            result => panic!("{result:?}"),
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "hashes too much")]
fn a_failing_sink_a_break_and_a_failing_reader_end_it() {
    let bytes = data(20 * CHUNK_BYTES);
    let len = bytes.len() as u64;
    let full = |offset, _: &[u8]| match offset {
        0 => Ok(()),
        _ => Err("full"),
    };
    let result = read_stream(&bytes[..], len, Stream::WithSha256, full, go_on);
    assert!(matches!(result, Err(StreamError::Sink("full"))));

    let mut calls = 0;
    let stop = |_| {
        calls += 1;
        ControlFlow::Break(())
    };
    let result = read_stream(&bytes[..], len, Stream::WithSha256, no_sink, stop);
    assert!(matches!(result, Err(StreamError::Stopped)));
    assert_eq!(calls, 1);
    let result = read_slice(&bytes, len, no_sink, |_| ControlFlow::Break(()));
    assert!(matches!(result, Err(StreamError::Stopped)));

    for at in [0, 1, 19] {
        let full = |offset, _: &[u8]| match offset / CHUNK_BYTES as u64 {
            chunk if chunk == at => Err("full"),
            _ => Ok(()),
        };
        let result = read_slice(&bytes, len, full, go_on);
        assert!(matches!(result, Err(StreamError::Sink("full"))), "{at}");
        let result = read_stream(&bytes[..], len, Stream::TreeOnly, full, go_on);
        assert!(matches!(result, Err(StreamError::Sink("full"))), "{at}");
    }

    struct Liar;
    impl Read for Liar {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(buffer.len() + 1)
        }
    }
    let result = read_stream(Liar, len, Stream::TreeOnly, no_sink, go_on);
    assert!(matches!(result, Err(StreamError::Read(_))));
}

/// A callback that stops because it has seen the device fail must not hide that failure.
#[test]
#[cfg_attr(miri, ignore = "hashes too much")]
fn what_the_sink_said_counts_more_than_a_callback_that_stops() {
    if threads() < 2 {
        eprintln!("SKIPPED: on one core no thread can fail but the one that calls back");
        return;
    }
    let bytes = data(20 * CHUNK_BYTES);
    let len = bytes.len() as u64;
    let here = thread::current().id();
    for is_slice in [false, true] {
        let failed = AtomicBool::new(false);
        let sink = |_, _: &[u8]| {
            if thread::current().id() == here {
                return Ok(());
            }
            failed.store(true, Ordering::SeqCst);
            Err("full")
        };
        let stop = |progress: Progress| {
            if progress.done <= CHUNK_BYTES as u64 && !is_slice {
                return ControlFlow::Continue(()); // there is no helper yet
            }
            while !failed.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            // Gives the helper time to report the failure.
            thread::sleep(Duration::from_millis(50));
            ControlFlow::Break(())
        };
        let result = if is_slice {
            read_slice(&bytes, len, sink, stop)
        } else {
            read_stream(&bytes[..], len, Stream::TreeOnly, sink, stop)
        };
        assert!(
            matches!(result, Err(StreamError::Sink("full"))),
            "{result:?}"
        );
    }
}

/// Whichever thread panics.
#[test]
#[cfg_attr(miri, ignore = "hashes too much")]
fn a_panic_in_the_sink_ends_it_with_a_panic() {
    let bytes = data(20 * CHUNK_BYTES);
    let len = bytes.len() as u64;
    let sink = |offset, _: &[u8]| match offset {
        0 => Ok::<_, ()>(()),
        _ => panic!("sink"),
    };
    let from_reader = || read_stream(&bytes[..], len, Stream::WithSha256, sink, go_on);
    assert!(std::panic::catch_unwind(from_reader).is_err());
    let from_slice = || read_slice(&bytes, len, sink, go_on);
    assert!(std::panic::catch_unwind(from_slice).is_err());
}

#[test]
#[cfg_attr(miri, ignore = "fills megabytes")]
fn no_more_than_the_buffers_are_in_use() {
    let pool = Pool::new(Stream::WithSha256, no_sink);
    for _ in 0..3 * BUFFERS {
        let buffer = pool.buffer(CHUNK_BYTES).unwrap();
        pool.queue(buffer);
        let state = pool.lock();
        let queued = state.serial.len().max(state.chunks.len());
        assert!(queued + state.free.len() + state.unmade <= BUFFERS);
    }
    pool.close();
    assert_eq!(pool.lock().free.len(), BUFFERS);
    assert_eq!(pool.lock().unmade, 0);
}
