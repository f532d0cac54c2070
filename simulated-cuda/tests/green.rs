//! Green contexts: what can be split, and what is held to a part.

mod support;

use simulated_cuda::{Device, Driver, in_child};
use support::*;

/// `CUdevResource`: it has an address in it, so it is aligned as one.
type Resource = [u64; 18];

/// The word of a resource in which the number of multiprocessors is.
const COUNT: usize = 12;

fn all() -> Resource {
    let mut resource = [0; 18];
    assert_eq!(
        cu!(cuDeviceGetDevResource, 0_i32, &raw mut resource, 1_u32),
        0
    );
    resource
}

/// The sizes of the parts and of the rest, or the code.
fn split(all: &Resource, parts: u32, flags: u32, least: u32) -> Result<(Vec<u64>, u64), u32> {
    let (mut result, mut rest) = ([[0_u64; 18]; 8], [0_u64; 18]);
    let mut parts = parts;
    let code = cu!(
        cuDevSmResourceSplitByCount,
        result.as_mut_ptr(),
        &raw mut parts,
        std::ptr::from_ref(all),
        &raw mut rest,
        flags,
        least
    );
    if code != 0 {
        return Err(code);
    }
    let sizes = result.iter().take(parts as usize);
    Ok((sizes.map(|part| part[COUNT]).collect(), rest[COUNT]))
}

/// Of a device with 132 multiprocessors: what a part of at least one is, with neighbours and without.
fn smallest(driver: Driver, major: u32) -> (u64, u64) {
    let mut device = Device::numbered(0);
    device.multiprocessors = 132;
    device.compute_capability = (major, 0);
    driver.set_devices(&[device]);
    open(0);
    let of = |flags| split(&all(), 1, flags, 1).unwrap().0[0];
    (of(0), of(1))
}

#[test]
fn parts_of_turing_have_steps_of_two() {
    in_child(|driver| assert_eq!(smallest(driver, 7), (2, 2)));
}

#[test]
fn parts_of_ampere_have_at_least_four() {
    in_child(|driver| assert_eq!(smallest(driver, 8), (4, 2)));
}

#[test]
fn parts_of_hopper_have_steps_of_eight_unless_neighbours_do_not_matter() {
    in_child(|driver| {
        assert_eq!(smallest(driver, 9), (8, 2));
        let all = all();
        assert_eq!(all[COUNT], 132);
        assert_eq!(split(&all, 2, 1, 13), Ok((vec![14, 14], 104)));
        assert_eq!(split(&all, 2, 0, 13), Ok((vec![16, 16], 100)));
        assert_eq!(split(&all, 8, 1, 60), Ok((vec![60, 60], 12)));
        assert_eq!(split(&all, 1, 1, 133), Err(915));
        assert_eq!(split(&[0; 18], 1, 1, 2), Err(914));
    });
}

#[test]
fn a_green_context_is_made_of_a_part_and_goes_after_its_streams() {
    in_child(|driver| {
        open(0);
        let (mut description, mut green, mut stream) = (0_u64, 0_u64, 0_u64);
        let mut part = all();
        let describe =
            |part: &mut Resource, to: *mut u64| cu!(cuDevResourceGenerateDesc, to, part, 1_u32);
        assert_eq!(describe(&mut [0; 18], &raw mut description), 915);
        assert_eq!(describe(&mut part, &raw mut description), 0);
        let make = |flags: u32, to: *mut u64| cu!(cuGreenCtxCreate, to, description, 0_i32, flags);
        assert_eq!(make(0, &raw mut green), 1);
        assert_eq!(make(1, &raw mut green), 0);
        let contexts = driver.counters().contexts;
        let stream_of =
            |flags: u32, to: *mut u64| cu!(cuGreenCtxStreamCreate, to, green, flags, 0_i32);
        assert_eq!(stream_of(0, &raw mut stream), 1, "it must be non-blocking");
        assert_eq!(stream_of(1, &raw mut stream), 0);
        assert_eq!(cu!(cuGreenCtxDestroy, green), 1, "a stream is held to it");
        assert_eq!(cu!(cuStreamDestroy_v2, stream), 0);
        assert_eq!(cu!(cuGreenCtxDestroy, green), 0);
        assert_eq!(cu!(cuGreenCtxDestroy, green), 201);
        assert_eq!(driver.counters().contexts, contexts - 1);
        assert_eq!(stream_of(1, &raw mut stream), 201);
    });
}
