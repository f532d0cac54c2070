//! Modules and launches, as the driver takes and refuses them.

mod support;

use simulated_cuda::in_child;

#[test]
fn the_driver_refuses_modules_with_cudas_codes() {
    in_child(|driver| {
        driver.set_driver_version(12_040);
        support::open(0);
        let mut module = 0_u64;
        let text = |text: &str| std::ffi::CString::new(text).unwrap();
        for (ptx, code) in [
            (text(".version 7.0\n.target sm_75\n.nonsense"), 218),
            (text(""), 218),
            (text(".version 8.5\n.target sm_75"), 222),
            (text(".version 8.4\n.target sm_75"), 0),
            (text(".version 7.0\n.target sm_100"), 209),
            (text("\x7fELF compiled"), 209),
        ] {
            assert_eq!(
                cu!(cuModuleLoadData, &raw mut module, ptx.as_ptr()),
                code,
                "{ptx:?}"
            );
        }
        let (mut log, ptx) = ([0x7f_u8; 200], text(&support::module("frobnicate;")));
        let mut values = [log.as_mut_ptr(), 200_usize as *mut u8];
        let options = [5_u32, 6];
        let code = cu!(
            cuModuleLoadDataEx,
            &raw mut module,
            ptx.as_ptr(),
            2_u32,
            options.as_ptr(),
            values.as_mut_ptr()
        );
        let log = std::ffi::CStr::from_bytes_until_nul(&log)
            .unwrap()
            .to_str()
            .unwrap();
        assert_eq!(
            (code, log),
            (218, "PTX line 10: `frobnicate` is not supported")
        );
        let mut function = 0_u64;
        assert_eq!(
            cu!(
                cuModuleLoadData,
                &raw mut module,
                text(support::ADD).as_ptr()
            ),
            0
        );
        assert_eq!(
            cu!(
                cuModuleGetFunction,
                &raw mut function,
                module,
                text("other").as_ptr()
            ),
            500
        );
        assert_eq!(cu!(cuModuleUnload, module), 0);
        assert_eq!(cu!(cuModuleUnload, module), 400);
    });
}

#[test]
fn variables_of_a_module_are_on_the_device() {
    in_child(|driver| {
        support::open(0);
        let ptx = ".version 7.0\n.target sm_75\n.address_size 64
            .const .align 4 .u32 table[3] = {10, 20, 30};
            .global .align 8 .u64 sum;
            .visible .entry add() {
                .reg .b64 %rd<9>; .reg .b32 %r<9>;
                mov.u64 %rd1, table; ld.const.u32 %r1, [%rd1+4]; ld.const.u32 %r2, [table+8];
                add.u32 %r3, %r1, %r2; cvt.u64.u32 %rd2, %r3; st.global.u64 [sum], %rd2; ret;
            }";
        let function = support::kernel(ptx, "add");
        assert_eq!(support::launch(function, 0, &[]), 0);
        assert_eq!(cu!(cuCtxSynchronize), 0);
        let counters = driver.counters();
        assert_eq!((counters.device_bytes, counters.launches), (20, 1));
    });
}

#[test]
fn a_launch_takes_its_parameters_in_three_ways() {
    #[repr(C)]
    struct Config {
        sizes: [u32; 7],
        stream: u64,
        attributes: u64,
        attribute_count: u32,
    }
    in_child(|_| {
        support::open(0);
        let (address, function) = (
            support::allocate(4),
            support::kernel(support::ADD, "access"),
        );
        support::write(address, &[0; 4]);
        assert_eq!(support::launch(function, 0, &[address, 1]), 0);
        // All of them in a buffer.
        let (buffer, len) = ([address, 10], 16_usize);
        let extra = [
            1_usize,
            buffer.as_ptr() as usize,
            2,
            &raw const len as usize,
            0,
        ];
        let (one, none) = (1_u32, std::ptr::null());
        let launch_with = |params: *const *const u64| {
            cu!(
                cuLaunchKernel,
                function,
                one,
                one,
                one,
                one,
                one,
                one,
                0_u32,
                0_u64,
                params,
                extra.as_ptr()
            )
        };
        assert_eq!(launch_with(none), 0);
        let value = 100_u64;
        let params = [&raw const address, &raw const value];
        assert_eq!(launch_with(params.as_ptr()), 1, "in one way at a time");
        // With the sizes in a structure, which may have attributes.
        let mut config = Config {
            sizes: [1, 1, 1, 1, 1, 1, 0],
            stream: 0,
            attributes: 0,
            attribute_count: 0,
        };
        let launch_as = |config: &Config| {
            let config = std::ptr::from_ref(config);
            cu!(cuLaunchKernelEx, config, function, params.as_ptr(), none)
        };
        assert_eq!(launch_as(&config), 0);
        config.attribute_count = 1;
        assert_eq!(launch_as(&config), 801);
        assert_eq!(support::read(address, 4), [111, 0, 0, 0]);
        for sizes in [
            [0, 1, 1, 1, 1, 1, 0],
            [1, 65_536, 1, 1, 1, 1, 0],
            [1, 1, 1, 1025, 1, 1, 0],
        ] {
            config = Config {
                sizes,
                attribute_count: 0,
                ..config
            };
            assert_eq!(launch_as(&config), 1);
        }
    });
}
