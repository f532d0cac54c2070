//! Opening a GPU: what is found out, and every reason why it is not opened.

use std::error::Error as _;
use std::process::Command;

use serde_json::Value;
use simulated_cuda::{After, Device, Driver, KernelFault, When, in_child, in_child_without};
use vram_residency::device::{Cuda, CudaError, Protection};
use vram_residency::error::{BuildError, SealError};
use vram_residency::{Provenance, VramManager, WorkerToken};

use crate::gpu::{nothing_is_left, worker};
use crate::shards::pattern;
use crate::support::fields::one;
use crate::support::{Place, alone, name_of, of_event, skip};

fn refused() -> CudaError {
    Cuda::builder(0).open().unwrap_err()
}

#[test]
fn without_a_driver_the_error_says_what_to_install() {
    alone(|_| {
        // SAFETY: as the library under test looks for it.
        if unsafe { libloading::Library::new("libcuda.so.1") }.is_ok() {
            crate::support::say("SKIPPED: this machine has a driver");
            return;
        }
        let error = refused();
        assert!(matches!(error, CudaError::NoDriver), "{error:?}");
        assert!(error.to_string().contains("install NVIDIA's driver"));
    });
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_with_the_number_of_those_that_are() {
    in_child(|driver: Driver| {
        driver.set_devices(&[Device::numbered(0), Device::numbered(1)]);
        assert!(Cuda::builder(1).open().is_ok());
        let error = Cuda::builder(2).open().unwrap_err();
        assert!(
            matches!(
                error,
                CudaError::NoDevice {
                    ordinal: 2,
                    count: 2,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains("CUDA_VISIBLE_DEVICES"));
        nothing_is_left(driver);
    });
}

#[test]
fn no_gpu_at_all_is_an_error() {
    in_child(|driver: Driver| {
        driver.set_devices(&[]);
        assert!(matches!(
            refused(),
            CudaError::NoDevice { count: 0, .. } | CudaError::Driver { .. }
        ));
    });
}

#[test]
fn a_driver_that_is_too_old_is_an_error_with_its_version() {
    in_child(|driver: Driver| {
        for (number, name) in [(10_020, "10.2"), (11_000, "11.0"), (11_010, "11.1")] {
            driver.set_driver_version(number);
            let error = refused();
            assert!(matches!(&error, CudaError::TooOld { version, .. } if version == name));
            assert!(error.to_string().contains("update"));
        }
        driver.set_driver_version(11_020);
        Cuda::builder(0).open().unwrap();
    });
}

#[test]
fn a_driver_without_virtual_memory_functions_is_an_error_that_names_one() {
    in_child_without(&["cuMemSetAccess"], |_| {
        let error = refused();
        assert!(matches!(
            error,
            CudaError::MissingSymbol {
                symbol: "cuMemSetAccess",
                ..
            }
        ));
    });
}

#[test]
fn a_driver_without_what_cudarc_needs_is_an_error_and_no_panic() {
    in_child_without(&["cuStreamWaitEvent"], |_| {
        assert!(matches!(refused(), CudaError::MissingSymbol { .. }));
    });
}

#[test]
fn a_gpu_that_is_too_old_is_an_error_with_its_capability() {
    in_child(|driver: Driver| {
        let mut old = Device::numbered(0);
        old.compute_capability = (7, 0);
        driver.set_devices(&[old]);
        assert!(matches!(
            refused(),
            CudaError::TooOldGpu {
                major: 7,
                minor: 0,
                ..
            }
        ));
    });
}

#[test]
fn a_gpu_that_computes_wrongly_is_not_opened() {
    in_child(|driver: Driver| {
        driver.corrupt_kernels(KernelFault {
            launch: 1,
            launches: 1,
            thread: Some(3),
            store: 2,
            bit: 9,
        });
        let error = refused();
        assert!(matches!(error, CudaError::KnownAnswer { .. }), "{error:?}");
        nothing_is_left(driver);
        assert!(Cuda::builder(0).open().is_ok());
    });
}

/// Whatever call fails first, with whatever code: an error with the call in it, no panic, and nothing
/// is left behind.
#[test]
fn every_call_that_opening_makes_may_fail() {
    in_child(|driver: Driver| {
        let calls = [
            "cuInit",
            "cuDeviceGetCount",
            "cuDeviceGet",
            "cuDeviceGetName",
            "cuDeviceGetUuid",
            "cuDeviceGetAttribute",
            "cuDeviceGetUuid_v2",
            "cuDevicePrimaryCtxRetain",
            "cuMemGetAllocationGranularity",
            "cuMemCreate",
            "cuMemAddressReserve",
            "cuMemMap",
            "cuMemSetAccess",
            "cuMemGetAccess",
            "cuStreamCreateWithPriority",
            "cuEventCreate",
            "cuMemHostAlloc",
            "cuModuleLoadData",
            "cuModuleGetFunction",
            "cuOccupancyMaxActiveBlocksPerMultiprocessor",
            "cuCtxGetStreamPriorityRange",
            "cuMemAlloc_v2",
            "cuPointerGetAttribute",
            "cuMemsetD8Async",
            "cuMemcpyHtoDAsync_v2",
            "cuMemcpyDtoHAsync_v2",
            "cuLaunchKernel",
            "cuEventRecord",
            "cuEventSynchronize",
            "cuStreamSynchronize",
            "cuDriverGetVersion",
            "cuCtxGetCurrent",
            "cuCtxSetCurrent",
            "cuCtxPushCurrent_v2",
        ];
        let fail = |call: &str, nth, code| {
            driver.fail(call, When::Nth(nth), code, After::Goes);
            let before = driver.calls(call);
            match Cuda::builder(0).open() {
                Err(error) => {
                    let text = match error.source() {
                        Some(source) => format!("{error}: {source}"),
                        None => error.to_string(),
                    };
                    assert!(!text.contains("0x"), "{text}");
                }
                // The driver is initialised once for the process.
                Ok(_) => assert_eq!(driver.calls(call), before, "{call} was not noticed"),
            }
            driver.clear_faults();
        };
        for call in calls {
            for code in [2, 304, 4711] {
                fail(call, 1, code);
            }
        }
        // Then it is cudarc that asks, where a code without a name is no value of its enum.
        for nth in [2, 3] {
            fail("cuDevicePrimaryCtxRetain", nth, 304);
        }
        let gpu = Cuda::builder(0).open().unwrap();
        drop(gpu);
        nothing_is_left(driver);
        // What these leave behind is what the driver would not take back.
        for call in [
            "cuCtxSynchronize",
            "cuMemUnmap",
            "cuMemAddressFree",
            "cuMemRelease",
            "cuDevicePrimaryCtxRelease_v2",
        ] {
            fail(call, 1, 304);
        }
    });
}

/// Why there is none for a GPU that could be opened.
fn no_manager(place: &Place) -> BuildError {
    let trail = place.open();
    let gpu = Cuda::builder(0).open().unwrap();
    let builder = VramManager::builder(gpu, &WorkerToken::generate().unwrap(), &trail);
    builder.build().unwrap_err()
}

/// Where `/dev/dxg` is, as below Windows: in a mount namespace whose `/dev` has it.
#[test]
fn below_windows_a_gpu_gets_no_manager_and_that_is_on_record() {
    if !std::path::Path::new("/dev/dxg").exists() {
        return in_a_namespace_with_dxg(name_of(
            below_windows_a_gpu_gets_no_manager_and_that_is_on_record,
        ));
    }
    in_child(|_| {
        let place = Place::new();
        let error = no_manager(&place);
        let BuildError::NotResident { cause, record, .. } = error else {
            panic!("{error:?}")
        };
        assert!(cause.contains("/dev/dxg"), "{cause}");
        let violations = of_event(&place.records(), "PolicyViolation");
        assert_eq!(violations[0]["seq"], record.unwrap().seq().value());
        assert_eq!(violations[0]["severity"], "CRITICAL");
        assert_eq!(violations[0]["by"], "library");
        assert_eq!(violations[0]["details"], *cause);
    });
}

fn in_a_namespace_with_dxg(test: &str) {
    const SCRIPT: &str = r#"mount -t tmpfs dev "$D" && touch "$D/dxg" &&
        for name in null zero random urandom; do
            touch "$D/$name" && mount --bind "/dev/$name" "$D/$name" || exit 1
        done && mount --rbind "$D" /dev && exec "$@""#;
    let place = Place::new();
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-U", "-r", "-m", "sh", "-c", SCRIPT, "sh"]);
        command.args(arguments).env("D", place.temp.path()).output()
    };
    if !unshare(&["true"]).is_ok_and(|output| output.status.success()) {
        return skip("`unshare` makes no namespace in which something can be mounted");
    }
    let executable = std::env::current_exe().unwrap();
    let arguments = [executable.to_str().unwrap(), test, "--exact", "--nocapture"];
    let output = unshare(&arguments).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn an_integrated_gpu_gets_no_manager_and_that_is_on_record() {
    in_child(|driver: Driver| {
        let mut jetson = Device::numbered(0);
        jetson.integrated = true;
        driver.set_devices(&[jetson]);
        let place = Place::new();
        let error = no_manager(&place);
        let BuildError::NotResident { cause, record, .. } = error else {
            panic!("{error:?}")
        };
        assert!(cause.contains("integrated"), "{cause}");
        let violations = of_event(&place.records(), "PolicyViolation");
        assert_eq!(violations[0]["seq"], record.unwrap().seq().value());
        assert_eq!(violations[0]["severity"], "CRITICAL");
        assert_eq!(violations[0]["by"], "library");
        assert_eq!(violations[0]["details"], *cause);
    });
}

#[test]
fn what_a_gpu_is_and_where_its_memory_lies_is_on_record() {
    in_child(|_| {
        let worker = worker(|builder| builder);
        let identity = worker.manager.device().identity().to_owned();
        let records = worker.close();
        let fields = "device identity proven unproven";
        let opened = &one(&records, "DeviceOpened", "INFO success", &[fields]);
        let identity_of = |record: &Value| record["identity"].as_str().unwrap().to_owned();
        assert_eq!(identity_of(opened), identity);
        for part in [
            "GPU-73696d75-6c61-7465-6420-475055203030",
            "Simulated GPU 0",
            "compute capability 9.0",
            "ECC on",
            ", driver",
            " for CUDA ",
        ] {
            assert!(identity.contains(part), "{part} in {identity}");
        }
        assert_eq!(opened["device"], "cuda:0");
        assert!(opened["proven"].as_str().unwrap().contains("read back"));
        assert!(opened["unproven"].as_str().unwrap().contains("firmware"));
        let trail = &of_event(&records, "TrailOpened")[0];
        let kernel = include_str!("../../src/device/cuda/digest.ptx");
        let plain = vram_residency::digest::Digests::of_reader(
            kernel.as_bytes(),
            vram_residency::Stream::WithSha256,
        );
        let expected = plain.unwrap().sha256.unwrap().to_string();
        assert_eq!(trail["kernel_sha256"], expected);
    });
}

#[test]
fn without_protection_a_gpu_is_opened_by_name_only_and_sealing_says_so() {
    in_child(|driver: Driver| {
        let mut plain = Device::numbered(0);
        plain.virtual_memory = false;
        driver.set_devices(&[plain]);
        assert!(matches!(refused(), CudaError::NotProtected));
        let worker = worker(|builder| builder.protection(Protection::WhereAvailable));
        worker.verified("s", &pattern(5000)).release().unwrap();
        let records = worker.close();
        assert_eq!(of_event(&records, "VramSealed")[0]["read_only"], false);
        let opened = &of_event(&records, "DeviceOpened")[0];
        assert!(
            opened["proven"]
                .as_str()
                .unwrap()
                .contains("cannot be made read-only")
        );
        nothing_is_left(driver);
    });
}

/// A driver says so by refusing the call. Memory is a mapping of its own all the same.
#[test]
fn a_driver_that_refuses_to_protect_is_used_by_name_only() {
    in_child(|driver: Driver| {
        for code in [1, 800, 801] {
            // Memory is made writable first.
            driver.fail("cuMemSetAccess", When::Nth(2), code, After::Goes);
            assert!(matches!(refused(), CudaError::NotProtected), "{code}");
            driver.fail("cuMemSetAccess", When::Nth(2), code, After::Goes);
            let worker = worker(|builder| builder.protection(Protection::WhereAvailable));
            let mappings = driver.counters().mappings;
            let shard = worker.verified("s", &pattern(5000));
            assert_eq!(driver.counters().mappings, mappings + 1);
            assert_eq!(worker.recorded("VramSealed")[0]["read_only"], false);
            shard.release().unwrap();
        }
        driver.fail("cuMemSetAccess", When::Nth(2), 700, After::Goes);
        assert!(matches!(refused(), CudaError::Device { .. }));
    });
}

#[test]
fn memory_that_is_elsewhere_from_the_start_gets_no_manager_and_that_is_on_record() {
    const IS_MANAGED: u32 = 8;
    in_child(|driver: Driver| {
        driver.set_pointer_attribute(IS_MANAGED, 1);
        let place = Place::new();
        let error = no_manager(&place);
        let BuildError::NotResident { cause, .. } = error else {
            panic!("{error:?}")
        };
        assert!(cause.contains("managed 1"), "{cause}");
        let violations = of_event(&place.records(), "PolicyViolation");
        assert_eq!(violations[0]["details"], *cause);
    });
}

#[test]
fn a_driver_that_cannot_compile_and_a_stub_are_errors_that_say_what_to_do() {
    in_child(|driver: Driver| {
        for code in [209, 218, 221, 222, 223] {
            driver.fail("cuModuleLoadData", When::Nth(1), code, After::Goes);
            let error = refused();
            assert!(matches!(error, CudaError::NotCompiled { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("ptxjitcompiler") && text.contains(&code.to_string()));
        }
        driver.fail("cuDeviceGetCount", When::Nth(1), 34, After::Goes);
        let error = refused();
        assert!(matches!(error, CudaError::Stub), "{error:?}");
        assert!(error.to_string().contains("LD_LIBRARY_PATH"));
        driver.fail("cuDeviceGet", When::Nth(1), 100, After::Goes);
        let error = Cuda::builder(7).open().unwrap_err();
        assert!(matches!(error, CudaError::NoDevice { ordinal: 7, .. }));
    });
}

/// The driver takes the call that protects, and says afterwards that the memory can be written to.
#[test]
fn a_driver_that_only_says_it_protects_is_not_believed() {
    const ACCESS_FLAGS: u32 = 16;
    const READ_WRITE: u64 = 3;
    in_child(|driver: Driver| {
        let required = worker(|builder| builder);
        let wherever = worker(|builder| builder.protection(Protection::WhereAvailable));
        let shard = required.written("s", &pattern(5000));
        driver.set_pointer_attribute(ACCESS_FLAGS, READ_WRITE);
        let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
        let SealError::Inconclusive { source, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(format!("{source:?}").contains("NotProtected"), "{source}");
        error.into_shard().unwrap().release().unwrap();
        assert_eq!(required.recorded("VramSealed").len(), 0);

        wherever.sealed("s", &pattern(5000)).release().unwrap();
        assert_eq!(wherever.recorded("VramSealed")[0]["read_only"], false);
        assert!(matches!(refused(), CudaError::NotProtected));
    });
}
