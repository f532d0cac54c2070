//! How the driver gets into a process, and what a test can rely on about its child.

mod support;

use std::process::Command;

use cudarc::driver::CudaContext;
use simulated_cuda::{Device, in_child, in_child_without};

#[test]
fn both_names_of_the_driver_are_this_library() {
    in_child(|driver| {
        for name in ["libcuda.so.1", "libcuda.so"] {
            // SAFETY: it is loaded already.
            let library = unsafe { libloading::Library::new(name) }.unwrap();
            let version: u32 = {
                // SAFETY: the type is the one in `cuda.h`.
                let init = unsafe { library.get::<extern "C" fn(u32) -> u32>(b"cuInit") }.unwrap();
                init(0)
            };
            assert_eq!(version, 0, "{name}");
        }
        assert_eq!(driver.calls("cuInit"), 2);
    });
}

#[test]
fn cudarc_finds_it() {
    in_child(|driver| {
        let mut wanted = Device::numbered(0);
        wanted.name = "A GPU of a test".to_owned();
        wanted.compute_capability = (8, 9);
        driver.set_devices(&[wanted.clone(), Device::numbered(1)]);
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.name().unwrap(), wanted.name);
        assert_eq!(
            context.uuid().unwrap().bytes.map(|byte| byte as u8),
            wanted.uuid
        );
        assert_eq!(context.compute_capability().unwrap(), (8, 9));
        assert_eq!(context.total_mem().unwrap() as u64, wanted.total_memory);
        drop(context);
        assert_eq!(driver.counters().contexts, 0);
    });
}

#[test]
fn a_driver_may_find_no_device() {
    in_child(|driver| {
        driver.set_devices(&[]);
        assert_eq!(cu!(cuInit, 0_u32), 100);
    });
}

#[test]
fn nothing_works_before_it_is_initialised() {
    in_child(|_| {
        let mut count = 0_i32;
        assert_eq!(cu!(cuDeviceGetCount, &raw mut count), 3);
        let mut version = 0_i32;
        assert_eq!(cu!(cuDriverGetVersion, &raw mut version), 0);
        assert_eq!(version, 13_000);
    });
}

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(code: i32) -> !;
}

#[test]
fn a_fork_of_the_process_has_no_driver() {
    in_child(|_| {
        support::open(0);
        // SAFETY: the fork does nothing but call the driver, which locks nothing in it, and end.
        let fork = unsafe { fork() };
        if fork == 0 {
            let (mut count, mut address) = (0_i32, 0_u64);
            let right = cu!(cuInit, 0_u32) == 3
                && cu!(cuDeviceGetCount, &raw mut count) == 3
                && cu!(cuMemAlloc_v2, &raw mut address, 64_usize) == 3
                && cu!(cuCtxSynchronize) == 3;
            // SAFETY: it ends the fork at once.
            unsafe { _exit(if right { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: `status` is a local variable.
        assert_eq!(unsafe { waitpid(fork, &raw mut status, 0) }, fork);
        assert_eq!(status, 0, "calls are refused with another code, or served");
        assert_eq!(cu!(cuCtxSynchronize), 0, "here it goes on");
    });
}

#[test]
fn symbols_can_be_missing() {
    in_child_without(&["cuMemCreate", "cuMemMap"], |_| {
        let library = support::library();
        for (symbol, there) in [
            ("cuMemCreate", false),
            ("cuMemMap", false),
            ("cuMemUnmap", true),
        ] {
            // SAFETY: the symbol is only looked for.
            let found = unsafe { library.get::<extern "C" fn()>(symbol.as_bytes()) }.is_ok();
            assert_eq!(found, there, "{symbol}");
        }
        assert_eq!(CudaContext::device_count(), Ok(1), "the others are there");
    });
}

#[test]
fn a_real_driver_on_the_search_path_is_not_taken() {
    let folder = std::env::temp_dir().join(format!("simulated-cuda-test-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(folder.join(name), "whoever opens this gets an error").unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["both_names_of_the_driver_are_this_library", "--exact"])
        .env("LD_LIBRARY_PATH", &folder)
        .output();
    std::fs::remove_dir_all(&folder).unwrap();
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
#[should_panic(expected = "failed in its child")]
fn a_child_that_fails_fails_its_test() {
    in_child(|_| panic!("as it must"));
}

#[test]
#[should_panic(expected = "did not come to its end")]
fn a_child_that_leaves_early_fails_its_test() {
    in_child(|_| std::process::exit(0));
}

fn elsewhere() {
    in_child(|_| {});
}

#[test]
#[should_panic(expected = "did not come to its end")]
fn a_child_that_runs_no_test_fails_its_test() {
    elsewhere(); // there is no test of that name
}

#[test]
fn unknown_devices_and_codes_are_refused() {
    in_child(|_| {
        support::open(0);
        let mut device = 7_i32;
        assert_eq!(cu!(cuDeviceGet, &raw mut device, 1_i32), 101);
        assert_eq!(cu!(cuDeviceGet, &raw mut device, -1_i32), 101);
        let mut text = std::ptr::null::<std::ffi::c_char>();
        assert_eq!(cu!(cuGetErrorName, 12_345_u32, &raw mut text), 1);
        assert!(text.is_null());
        assert_eq!(cu!(cuGetErrorName, 700_u32, &raw mut text), 0);
        // SAFETY: the driver's names are texts that stay.
        let name = unsafe { std::ffi::CStr::from_ptr(text) };
        assert_eq!(name.to_str(), Ok("CUDA_ERROR_ILLEGAL_ADDRESS"));
    });
}
