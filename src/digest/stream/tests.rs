//! Streams of every length, ends that come too early or too late, and who fails meanwhile.

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

#[test]
fn a_stream_has_the_tree_and_the_sha256_of_its_bytes_and_arrives_in_order() {
    for len in [
        0,
        1,
        4096,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        23 * CHUNK_BYTES + 4097,
    ] {
        let bytes = data(len);
        let mut arrived: Vec<u8> = Vec::new();
        let mut last = None;
        let streamed = read_stream(
            &bytes[..],
            len as u64,
            Stream::WithSha256,
            |offset, chunk| {
                assert_eq!(offset, arrived.len() as u64);
                arrived.extend_from_slice(chunk);
                Ok::<_, ()>(())
            },
            |progress| {
                last = Some(progress);
                ControlFlow::Continue(())
            },
        )
        .unwrap();
        assert!(arrived == bytes);
        let tree = Tree::of_slice(&bytes, go_on).unwrap();
        assert_eq!(streamed.tree.digest(), tree.digest(), "{len} bytes");
        assert_eq!(streamed.tree.damaged(&tree), []);
        let sha256 = StreamDigest::from_bytes(Sha256::digest(&bytes).into());
        assert_eq!(streamed.sha256, Some(sha256));
        let total = len as u64;
        assert_eq!(last.is_none(), len == 0);
        assert!(last.is_none_or(|last| last == Progress { done: total, total }));
    }
}

#[test]
fn the_plain_sha256_is_not_computed_unless_asked_for() {
    let streamed = read_stream(&[1][..], 1, Stream::TreeOnly, no_sink, go_on).unwrap();
    assert_eq!(streamed.sha256, None);
}

#[test]
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
}

#[test]
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

    struct Liar;
    impl Read for Liar {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(buffer.len() + 1)
        }
    }
    let result = read_stream(Liar, len, Stream::TreeOnly, no_sink, go_on);
    assert!(matches!(result, Err(StreamError::Read(_))));
}

#[test]
fn a_panic_in_the_sink_arrives_at_the_caller() {
    let bytes = data(20 * CHUNK_BYTES);
    let result = std::panic::catch_unwind(|| {
        let sink = |offset, _: &[u8]| match offset {
            0 => Ok::<_, ()>(()),
            _ => panic!("sink"),
        };
        read_stream(
            &bytes[..],
            bytes.len() as u64,
            Stream::WithSha256,
            sink,
            go_on,
        )
    });
    assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"sink"));
}

#[test]
fn no_more_than_the_buffers_are_in_use() {
    let pool = Pool::new(Stream::WithSha256);
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
