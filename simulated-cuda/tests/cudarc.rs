//! The driver as cudarc uses it, from the context to a graph.

mod support;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use simulated_cuda::{KernelFault, in_child};
use support::{ADD, random};

const DIGEST: &str = include_str!("../../src/device/cuda/digest.ptx");

fn one_thread() -> LaunchConfig {
    LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (1, 1, 1),
        shared_mem_bytes: 0,
    }
}

#[test]
fn bytes_go_there_and_back_and_nothing_is_left() {
    in_child(|driver| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let bytes = random(100_000, 1);
        let there = stream.clone_htod(&bytes).unwrap();
        let copy = stream.clone_dtod(&there).unwrap();
        let view = copy.slice(10..);
        let mut back = vec![0; bytes.len() - 10];
        stream.memcpy_dtoh(&view, &mut back).unwrap();
        stream.synchronize().unwrap();
        context.check_err().unwrap();
        assert_eq!(back, bytes[10..]);
        let mut zeros = stream.alloc_zeros::<u32>(5).unwrap();
        stream.memset_zeros(&mut zeros).unwrap();
        let back = stream.clone_dtoh(&zeros).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(back, [0; 5]);
        drop((there, copy, zeros, stream));
        context.synchronize().unwrap();
        context.check_err().unwrap();
        let counters = driver.counters();
        assert_eq!(
            (counters.allocations, counters.streams, counters.events),
            (0, 0, 0)
        );
        drop(context);
        assert_eq!(driver.counters().contexts, 0);
    });
}

#[test]
fn the_kernel_that_ships_is_loaded_and_launched() {
    in_child(|driver| {
        let context = CudaContext::new(0).unwrap();
        let module = context.load_module(Ptx::from_src(DIGEST)).unwrap();
        let function = module.load_function("fsverity_blocks").unwrap();
        assert_eq!(function.max_threads_per_block().unwrap(), 128);
        let occupied = function
            .occupancy_max_active_blocks_per_multiprocessor(128, 0, None)
            .unwrap();
        assert_eq!(occupied, 16);
        let stream = context.new_stream_with_priority(0).unwrap();
        let bytes = random(4096, 9);
        let data = stream.clone_htod(&bytes).unwrap();
        let digests = stream.alloc_zeros::<u8>(32).unwrap();
        let address = {
            use cudarc::driver::DevicePtr;
            data.device_ptr(&stream).0
        };
        let table = stream.clone_htod(&[address, 4096, 0]).unwrap();
        let (count, blocks) = (1_u32, 1_u32);
        let mut launch = stream.launch_builder(&function);
        launch.arg(&table).arg(&count).arg(&blocks).arg(&digests);
        let config = LaunchConfig {
            grid_dim: (2, 1, 1),
            block_dim: (128, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are those of the kernel, and the memory is large enough.
        unsafe { launch.launch(config) }.unwrap();
        let mut digest = vec![0; 32];
        stream.memcpy_dtoh(&digests, &mut digest).unwrap();
        stream.synchronize().unwrap();
        context.check_err().unwrap();
        use sha2::Digest as _;
        assert_eq!(digest, sha2::Sha256::digest(&bytes).to_vec());
        assert_eq!(
            (driver.counters().launches, driver.counters().blocks),
            (1, 2)
        );
        assert_eq!(driver.counters().device_to_host, 32);
        // One bit of one digest's second word.
        let fault = KernelFault {
            launch: 1,
            launches: 1,
            thread: Some(0),
            store: 1,
            bit: 0,
        };
        driver.corrupt_kernels(fault);
        // SAFETY: the arguments are those of the kernel, and the memory is large enough.
        unsafe { launch.launch(config) }.unwrap();
        let mut wrong = vec![0; 32];
        stream.memcpy_dtoh(&digests, &mut wrong).unwrap();
        stream.synchronize().unwrap();
        digest[4] ^= 1;
        assert_eq!(wrong, digest);
        let too_many = LaunchConfig {
            block_dim: (129, 1, 1),
            ..config
        };
        // SAFETY: the same, and it is refused.
        let error = unsafe { launch.launch(too_many) }.unwrap_err();
        assert_eq!(error.0 as u32, 701);
    });
}

#[test]
fn a_graph_is_captured_and_replayed() {
    in_child(|_| {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: there is one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let function = context
            .load_module(Ptx::from_src(ADD))
            .unwrap()
            .load_function("access")
            .unwrap();
        let word = stream.clone_htod(&[5_u32]).unwrap();
        stream.synchronize().unwrap();
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        // SAFETY: the arguments are those of the kernel; the simulated driver checks the address.
        unsafe {
            stream
                .launch_builder(&function)
                .arg(&word)
                .arg(&3_u64)
                .launch(one_thread())
        }
        .unwrap();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        let mut back = [0_u32];
        stream.memcpy_dtoh(&word, &mut back).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(back, [11]);
    });
}

#[test]
fn a_kernel_that_goes_wrong_is_an_error_at_the_next_wait_and_for_good() {
    in_child(|_| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let function = context
            .load_module(Ptx::from_src(ADD))
            .unwrap()
            .load_function("access")
            .unwrap();
        let nowhere = 1_u64 << 62;
        // SAFETY: the arguments are those of the kernel; the simulated driver checks the address.
        unsafe {
            stream
                .launch_builder(&function)
                .arg(&nowhere)
                .arg(&3_u64)
                .launch(one_thread())
        }
        .unwrap();
        let illegal = DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(stream.synchronize(), Err(illegal));
        assert_eq!(context.synchronize(), Err(illegal));
        assert_eq!(stream.clone_htod(&[1_u8]).err(), Some(illegal));
    });
}

#[test]
fn pinned_memory_goes_through_cudarc_too() {
    in_child(|driver| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        // SAFETY: it is written before it is read.
        let mut host = unsafe { context.alloc_pinned::<u8>(1000) }.unwrap();
        host.as_mut_slice()
            .unwrap()
            .copy_from_slice(&random(1000, 4));
        let there = stream.clone_htod(&host).unwrap();
        host.as_mut_slice().unwrap().fill(0); // waits for the copy first
        let mut back = vec![0; 1000];
        stream.memcpy_dtoh(&there, &mut back).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(back, random(1000, 4));
        drop(host);
        assert_eq!(driver.counters().pinned_bytes, 0);
    });
}
