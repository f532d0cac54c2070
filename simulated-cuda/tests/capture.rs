//! Captures: what becomes part of a graph, and what is forbidden meanwhile.

mod support;

use simulated_cuda::in_child;
use support::*;

const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

fn begin(stream: u64, mode: u32) {
    assert_eq!(cu!(cuStreamBeginCapture_v2, stream, mode), 0);
}

/// The code and the graph.
fn end(stream: u64) -> (u32, u64) {
    let mut graph = 7_u64;
    let code = cu!(cuStreamEndCapture, stream, &raw mut graph);
    (code, graph)
}

fn executable(graph: u64) -> u64 {
    let mut executable = 0_u64;
    assert_eq!(
        cu!(
            cuGraphInstantiateWithFlags,
            &raw mut executable,
            graph,
            0_u64
        ),
        0
    );
    executable
}

fn event() -> u64 {
    let mut event = 0_u64;
    assert_eq!(cu!(cuEventCreate, &raw mut event, 2_u32), 0);
    event
}

#[test]
fn a_graph_does_its_work_at_every_launch_and_not_before() {
    in_child(|driver| {
        open(0);
        let (address, stream, function) = (allocate(4), stream(), kernel(ADD, "access"));
        write(address, &[1, 0, 0, 0]);
        begin(stream, GLOBAL);
        assert_eq!(launch(function, stream, &[address, 10]), 0);
        let (code, graph) = end(stream);
        assert_eq!((code, driver.counters().graphs), (0, 1));
        assert_eq!(cu!(cuCtxSynchronize), 0);
        assert_eq!(read(address, 4), [1, 0, 0, 0]);
        let graphs = executable(graph);
        for sum in [11, 21, 31] {
            assert_eq!(cu!(cuGraphLaunch, graphs, stream), 0);
            assert_eq!(cu!(cuStreamSynchronize, stream), 0);
            assert_eq!(read(address, 4), [sum, 0, 0, 0]);
        }
        assert_eq!(cu!(cuGraphDestroy, graph), 0);
        assert_eq!(cu!(cuGraphExecDestroy, graphs), 0);
        let counters = driver.counters();
        assert_eq!(
            (
                counters.graphs,
                counters.executable_graphs,
                counters.launches
            ),
            (0, 0, 3)
        );
    });
}

#[test]
fn a_graph_over_memory_that_is_gone_faults() {
    in_child(|_| {
        open(0);
        let (address, stream) = (mapped(MIB2), stream());
        begin(stream, GLOBAL);
        assert_eq!(cu!(cuMemsetD8Async, address, 1_u8, 1_usize, stream), 0);
        let graph = executable(end(stream).1);
        assert_eq!(cu!(cuGraphLaunch, graph, stream), 0);
        assert_eq!(cu!(cuStreamSynchronize, stream), 0);
        assert_eq!(cu!(cuMemUnmap, address, MIB2), 0);
        assert_eq!(cu!(cuGraphLaunch, graph, stream), 0);
        assert_eq!(cu!(cuStreamSynchronize, stream), 700);
    });
}

#[test]
fn waiting_and_freeing_fail_and_spoil_the_capture() {
    in_child(|_| {
        open(0);
        let (address, stream, other) = (allocate(4), stream(), stream());
        let virtual_ = mapped(MIB2);
        let mut host = std::ptr::null_mut::<u8>();
        assert_eq!(cu!(cuMemHostAlloc, &raw mut host, 64_usize, 0_u32), 0);
        let (mut byte, mut more) = (0_u8, std::ptr::null_mut::<u8>());
        let calls: [(&str, &mut dyn FnMut() -> u32); 9] = [
            ("the stream", &mut || cu!(cuStreamSynchronize, stream)),
            ("the stream, asked", &mut || cu!(cuStreamQuery, stream)),
            ("another stream", &mut || cu!(cuStreamSynchronize, other)),
            ("the context", &mut || cu!(cuCtxSynchronize)),
            ("freeing", &mut || cu!(cuMemFree_v2, address)),
            ("freeing host memory", &mut || cu!(cuMemFreeHost, host)),
            ("unmapping", &mut || cu!(cuMemUnmap, virtual_, MIB2)),
            ("allocating", &mut || {
                cu!(cuMemHostAlloc, &raw mut more, 64_usize, 0_u32)
            }),
            ("copying", &mut || {
                cu!(cuMemcpyDtoH_v2, &raw mut byte, address, 1_usize)
            }),
        ];
        for (what, call) in calls {
            begin(stream, GLOBAL);
            assert_eq!(call(), 900, "{what}");
            assert_eq!(end(stream), (901, 0), "{what}");
        }
        assert_eq!(cu!(cuMemFree_v2, address), 0, "nothing is lost by it");
    });
}

#[test]
fn a_relaxed_capture_forbids_only_to_wait_for_it() {
    in_child(|_| {
        open(0);
        let (address, stream, other) = (allocate(4), stream(), stream());
        begin(stream, RELAXED);
        assert_eq!(cu!(cuStreamSynchronize, other), 0);
        assert_eq!(cu!(cuMemFree_v2, address), 0);
        assert_eq!(end(stream).0, 0);
        begin(stream, RELAXED);
        assert_eq!(cu!(cuCtxSynchronize), 900);
        assert_eq!(end(stream).0, 901);
    });
}

#[test]
fn captures_of_other_threads_forbid_what_their_mode_says() {
    in_child(|_| {
        let context = open(0);
        let (stream, other) = (stream(), stream());
        for (mode, code) in [(GLOBAL, 900), (THREAD_LOCAL, 0), (RELAXED, 0)] {
            begin(stream, mode);
            let found = std::thread::spawn(move || {
                assert_eq!(cu!(cuCtxSetCurrent, context), 0);
                cu!(cuStreamSynchronize, other)
            });
            assert_eq!(found.join().unwrap(), code, "mode {mode}");
            assert_eq!(
                end(stream).0,
                if code == 0 { 0 } else { 901 },
                "mode {mode}"
            );
        }
        // A thread that says so is not held up.
        begin(stream, GLOBAL);
        let found = std::thread::spawn(move || {
            assert_eq!(cu!(cuCtxSetCurrent, context), 0);
            let mut mode = RELAXED;
            assert_eq!(cu!(cuThreadExchangeStreamCaptureMode, &raw mut mode), 0);
            assert_eq!(mode, GLOBAL);
            cu!(cuStreamSynchronize, other)
        });
        assert_eq!(found.join().unwrap(), 0);
        assert_eq!(end(stream).0, 0);
    });
}

#[test]
fn only_the_thread_that_began_a_capture_ends_it() {
    in_child(|_| {
        let context = open(0);
        let stream = stream();
        begin(stream, GLOBAL);
        let found = std::thread::spawn(move || {
            assert_eq!(cu!(cuCtxSetCurrent, context), 0);
            end(stream).0
        });
        assert_eq!(found.join().unwrap(), 908);
        assert_eq!(end(stream).0, 0);
    });
}

#[test]
fn the_default_stream_is_neither_captured_nor_mixed_in() {
    in_child(|_| {
        open(0);
        let (address, mut blocking) = (allocate(4), 0_u64);
        assert_eq!(cu!(cuStreamBeginCapture_v2, 0_u64, GLOBAL), 900);
        assert_eq!(cu!(cuStreamCreate, &raw mut blocking, 0_u32), 0);
        begin(blocking, RELAXED);
        let mut status = 9_u32;
        let asked = cu!(cuStreamIsCapturing, 0_u64, &raw mut status);
        assert_eq!(asked, 906, "which is no answer, and spoils nothing");
        assert_eq!(end(blocking).0, 0);
        begin(blocking, RELAXED);
        assert_eq!(cu!(cuMemsetD8Async, address, 1_u8, 1_usize, 0_u64), 906);
        assert_eq!(end(blocking).0, 901);
    });
}

#[test]
fn streams_join_a_capture_through_events_and_come_back() {
    in_child(|driver| {
        open(0);
        let (address, first, second) = (allocate(1), stream(), stream());
        let (fork, join) = (event(), event());
        write(address, &[1]);
        begin(first, GLOBAL);
        assert_eq!(cu!(cuEventRecord, fork, first), 0);
        assert_eq!(cu!(cuStreamWaitEvent, second, fork, 0_u32), 0);
        assert_eq!(cu!(cuMemsetD8Async, address, 2_u8, 1_usize, second), 0);
        assert_eq!(cu!(cuEventRecord, join, second), 0);
        assert_eq!(cu!(cuEventQuery, join), 907, "an event inside the graph");
        assert_eq!(cu!(cuStreamWaitEvent, first, join, 0_u32), 0);
        let (code, graph) = end(first);
        assert_eq!(code, 0);
        let mut status = 9_u32;
        assert_eq!(cu!(cuStreamIsCapturing, second, &raw mut status), 0);
        assert_eq!(status, 0);
        assert_eq!(driver.peek(address, 1), [1]);
        assert_eq!(cu!(cuGraphLaunch, executable(graph), first), 0);
        assert_eq!(cu!(cuStreamSynchronize, first), 0);
        assert_eq!(driver.peek(address, 1), [2]);
    });
}

#[test]
fn a_stream_that_does_not_come_back_spoils_the_capture() {
    in_child(|_| {
        open(0);
        let (address, first, second, fork) = (allocate(1), stream(), stream(), event());
        begin(first, GLOBAL);
        assert_eq!(cu!(cuEventRecord, fork, first), 0);
        assert_eq!(cu!(cuStreamWaitEvent, second, fork, 0_u32), 0);
        assert_eq!(cu!(cuMemsetD8Async, address, 2_u8, 1_usize, second), 0);
        assert_eq!(end(second).0, 903, "it did not begin there");
        assert_eq!(end(first).0, 901);
        begin(first, GLOBAL);
        assert_eq!(cu!(cuEventRecord, fork, first), 0);
        assert_eq!(cu!(cuStreamWaitEvent, second, fork, 0_u32), 0);
        assert_eq!(cu!(cuMemsetD8Async, address, 2_u8, 1_usize, second), 0);
        assert_eq!(end(first).0, 904);
        // Nor may it wait for what is outside.
        let outside = event();
        assert_eq!(cu!(cuEventRecord, outside, second), 0);
        begin(first, GLOBAL);
        assert_eq!(cu!(cuStreamWaitEvent, first, outside, 0_u32), 905);
        assert_eq!(end(first).0, 901);
    });
}

#[test]
fn ends_and_beginnings_must_match() {
    in_child(|_| {
        open(0);
        let stream = stream();
        assert_eq!(end(stream), (401, 0));
        begin(stream, GLOBAL);
        assert_eq!(cu!(cuStreamBeginCapture_v2, stream, GLOBAL), 401);
        let mut status = 9_u32;
        assert_eq!(cu!(cuStreamIsCapturing, stream, &raw mut status), 0);
        assert_eq!(status, 1);
        assert_eq!(end(stream).0, 0);
    });
}

#[test]
fn a_capture_ends_with_its_stream() {
    in_child(|_| {
        open(0);
        let (address, stream) = (allocate(4), stream());
        begin(stream, GLOBAL);
        assert_eq!(cu!(cuStreamDestroy_v2, stream), 0);
        assert_eq!(cu!(cuMemFree_v2, address), 0);
    });
}

#[test]
fn memory_is_not_freed_by_a_graph() {
    in_child(|driver| {
        open(0);
        let (address, stream) = (allocate(4), stream());
        begin(stream, RELAXED);
        assert_eq!(cu!(cuMemFreeAsync, address, stream), 801);
        assert_eq!(end(stream).0, 0);
        assert_eq!(driver.counters().allocations, 1);
    });
}

#[test]
fn a_context_that_ends_takes_only_its_own_captures_along() {
    in_child(|driver| {
        driver.set_devices(&[0, 1].map(simulated_cuda::Device::numbered));
        let first = open(0);
        let stream = stream();
        begin(stream, RELAXED);
        open(1);
        assert_eq!(cu!(cuDevicePrimaryCtxRelease_v2, 1_i32), 0);
        assert_eq!(cu!(cuCtxSetCurrent, first), 0);
        assert_eq!(end(stream).0, 0);
    });
}
