//! The interpreter without the driver: single instructions against their definitions, threads that part,
//! and what is refused.

mod support;

use simulated_cuda::ptx::{Access, Launch, Module, Stop};
use support::{Flat, module};

fn run(body: &str, params: [u64; 3]) -> Result<u64, Stop> {
    let module = Module::parse(&module(body)).unwrap();
    let mut memory = Flat::new();
    let out = memory.add(&[0; 16]);
    let bytes: Vec<u8> = [out]
        .iter()
        .chain(&params)
        .flat_map(|param| param.to_le_bytes())
        .collect();
    let launch = Launch {
        kernel: &module.kernels[0],
        grid: [1, 1, 1],
        block: [1, 1, 1],
        params: &bytes,
        variables: &[],
        branches: 1000,
        corruption: None,
    };
    launch.run(&memory)?;
    Ok(u64::from_le_bytes(memory.read(out, 8).try_into().unwrap()))
}

/// Computes `%r4` or `%rd5` and stores it.
fn compute(instruction: &str, params: [u64; 3]) -> u64 {
    let store = if instruction.contains("%rd5") {
        "st.u64 [%rd1], %rd5;"
    } else {
        "st.u32 [%rd1], %r4;"
    };
    run(&format!("{instruction}; {store}"), params).unwrap()
}

#[test]
fn instructions_compute_what_they_are_defined_to() {
    const A: u64 = 0x8000_0001;
    let minus = |value: u32| u64::from(value.wrapping_neg());
    for (instruction, params, expected) in [
        ("add.s32 %r4, %r1, %r2", [0xffff_ffff, 3, 0], 2),
        ("sub.s32 %r4, %r1, 5", [3, 0, 0], minus(2)),
        (
            "mul.lo.s32 %r4, %r1, %r2",
            [0x1_0001, 0x1_0001, 0],
            0x2_0001,
        ),
        ("mul.hi.u32 %r4, %r1, %r2", [A, A, 0], 0x4000_0001),
        ("mul.hi.s32 %r4, %r1, %r2", [A, A, 0], 0x3fff_ffff),
        ("mul.wide.u32 %rd5, %r1, 24", [A, 0, 0], A * 24),
        (
            "mul.wide.s32 %rd5, %r1, %r2",
            [minus(2), 3, 0],
            -6_i64 as u64,
        ),
        ("mad.lo.s32 %r4, %r1, %r2, %r3", [3, 4, 5], 17),
        ("mad.wide.u32 %rd5, %r1, %r2, %rd4", [A, 2, 5], 2 * A + 5),
        ("div.u32 %r4, %r1, %r2", [100, 7, 0], 14),
        ("div.s32 %r4, %r1, %r2", [minus(100), 7, 0], minus(14)),
        ("rem.s32 %r4, %r1, %r2", [minus(100), 7, 0], minus(2)),
        (
            "rem.u64 %rd5, %rd2, %rd3",
            [1 << 40, 1000, 0],
            (1 << 40) % 1000,
        ),
        ("min.s32 %r4, %r1, %r2", [minus(1), 1, 0], minus(1)),
        ("max.u64 %rd5, %rd2, %rd3", [u64::MAX, 1, 0], u64::MAX),
        ("neg.s32 %r4, %r1", [5, 0, 0], minus(5)),
        ("abs.s32 %r4, %r1", [minus(5), 0, 0], 5),
        ("and.b32 %r4, %r1, %r2", [12, 10, 0], 8),
        ("or.b64 %rd5, %rd2, %rd3", [1 << 40, 1, 0], 1 << 40 | 1),
        ("xor.b32 %r4, %r1, %r2", [12, 10, 0], 6),
        ("not.b32 %r4, %r1", [0, 0, 0], 0xffff_ffff),
        ("shl.b32 %r4, %r1, 31", [3, 0, 0], 1 << 31),
        ("shl.b32 %r4, %r1, %r2", [3, 32, 0], 0),
        ("shr.u32 %r4, %r1, 40", [A, 0, 0], 0),
        ("shr.s32 %r4, %r1, %r2", [A, 99, 0], 0xffff_ffff),
        ("shr.u64 %rd5, %rd2, 12", [1 << 50, 0, 0], 1 << 38),
        ("shr.s64 %rd5, %rd2, %r2", [1 << 63, 70, 0], u64::MAX),
        ("shf.r.wrap.b32 %r4, %r1, %r2, 33", [0b10, 1, 0], A),
        ("shf.r.clamp.b32 %r4, %r1, %r2, 33", [2, 7, 0], 7),
        ("shf.l.wrap.b32 %r4, %r1, %r2, 4", [0xf000_0000, 1, 0], 0x1f),
        ("shf.l.clamp.b32 %r4, %r1, %r2, %r3", [9, 1, 32], 9),
        ("shf.l.wrap.b32 %r4, %r1, %r1, %r3", [A, 0, 1], 3),
        ("shf.r.wrap.b32 %r4, %r1, %r1, 0", [A, 0, 0], A),
        (
            "prmt.b32 %r4, %r1, %r2, 0x0123",
            [0x0102_0304, 0, 0],
            0x0403_0201,
        ),
        (
            "prmt.b32 %r4, %r1, %r2, 0x7610",
            [0x0102_0304, 0x0506_0708, 0],
            0x0506_0304,
        ),
        ("prmt.b32 %r4, %r1, %r2, %r3", [0x80, 0, 0x1118], 0xff),
        (
            "lop3.b32 %r4, %r1, %r2, %r3, 0xca",
            [0xf0, 0xaa, 0x55],
            0xa5,
        ),
        ("lop3.b32 %r4, %r1, %r2, %r3, 0x96", [1, 3, 7], 5),
        ("bfe.u32 %r4, %r1, 4, 8", [0xabcd, 0, 0], 0xbc),
        ("bfe.s32 %r4, %r1, %r2, %r3", [0xabcd, 4, 8], 0xffff_ffbc),
        ("bfi.b32 %r4, %r1, %r2, 8, 4", [0xff, 0, 0], 0xf00),
        ("brev.b32 %r4, %r1", [1, 0, 0], 1 << 31),
        ("clz.b32 %r4, %r1", [1, 0, 0], 31),
        ("popc.b64 %r4, %rd2", [u64::MAX, 0, 0], 64),
        ("cvt.u64.u32 %rd5, %r1", [A, 0, 0], A),
        ("cvt.s64.s32 %rd5, %r1", [A, 0, 0], 0xffff_ffff_8000_0001),
        ("cvt.u32.u64 %r4, %rd2", [1 << 40 | 7, 0, 0], 7),
        ("cvt.u32.u8 %r4, %r1", [0x1ff, 0, 0], 0xff),
        ("cvt.s32.s8 %r4, %r1", [0x1ff, 0, 0], 0xffff_ffff),
        (
            "cvt.u16.u32 %rs1, %r1; cvt.s32.s16 %r4, %rs1",
            [0x1_8000, 0, 0],
            0xffff_8000,
        ),
        (
            "cvt.u16.u32 %rs1, %r1; add.s16 %rs2, %rs1, 1; cvt.u32.u16 %r4, %rs2",
            [0xffff, 0, 0],
            0,
        ),
        (
            "cvt.u16.u32 %rs1, %r1; mul.wide.u16 %r4, %rs1, 256",
            [0xffff, 0, 0],
            0xff_ff00,
        ),
        (
            "cvt.u16.u32 %rs1, %r1; mul.wide.s16 %r4, %rs1, 2",
            [0xffff, 0, 0],
            minus(2),
        ),
        (
            "cvt.u16.u32 %rs1, %r1; shr.s16 %rs2, %rs1, 4; cvt.u32.u16 %r4, %rs2",
            [0x8000, 0, 0],
            0xf800,
        ),
        ("mov.b64 %rd5, {%r1, %r2}", [1, 2, 0], 2 << 32 | 1),
        ("mov.b64 {%r5, %r4}, %rd2", [3 << 32, 0, 0], 3),
        (
            "mov.b32 {%rs1, %rs2}, %r1; mov.b32 %r4, {%rs2, %rs1}",
            [0x0102_0304, 0, 0],
            0x0304_0102,
        ),
        (
            "ld.global.nc.L1::no_allocate.L2::128B.u32 %r4, [%rd1+4]",
            [0; 3],
            0,
        ),
        ("mov.u32 %r4, %ntid.x", [0, 0, 0], 1),
        (
            "setp.lt.s32 %p1, %r1, %r2; selp.b32 %r4, 5, 6, %p1",
            [minus(1), 0, 0],
            5,
        ),
        (
            "setp.lt.u32 %p1, %r1, %r2; selp.b32 %r4, 5, 6, %p1",
            [minus(1), 0, 0],
            6,
        ),
        (
            "setp.ge.u64 %p1, %rd2, %rd3; selp.b64 %rd5, %rd2, %rd3, %p1",
            [5, 9, 0],
            9,
        ),
        (
            "setp.eq.u32 %p1|%p2, %r1, %r2; selp.b32 %r4, 1, 2, %p2",
            [4, 4, 0],
            2,
        ),
        (
            "setp.eq.u32 %p1, %r1, 4; setp.hi.and.u32 %p2, %r2, 7, %p1; selp.b32 %r4, 1, 0, %p2",
            [4, 8, 0],
            1,
        ),
        (
            "setp.ne.u32 %p1, %r1, 4; not.pred %p2, %p1; selp.b32 %r4, 1, 0, %p2",
            [4, 0, 0],
            1,
        ),
        (
            "mov.u32 %r4, 1; setp.eq.u32 %p1, %r1, 4; @!%p1 mov.u32 %r4, 2",
            [4, 0, 0],
            1,
        ),
        (
            "mov.u32 %r4, 1; setp.eq.u32 %p1, %r1, 4; @%p1 mov.u32 %r4, 2",
            [4, 0, 0],
            2,
        ),
        (
            "{ .reg .b32 %r1; mov.u32 %r1, 8; add.u32 %r4, %r1, 1; } add.u32 %r4, %r4, %r1",
            [5, 0, 0],
            14,
        ),
    ] {
        assert_eq!(compute(instruction, params), expected, "{instruction}");
    }
}

#[test]
fn memory_is_accessed_in_every_width() {
    let body = "
        st.global.u32 [%rd1], 0x80ff7f01;
        ld.global.s8 %r4, [%rd1+3]; ld.u8 %rs1, [%rd1+2]; ld.s16 %r5, [%rd1+2]; ld.u16 %rd5, [%rd1];
        st.global.u8 [%rd1+4], %r4; st.u8 [%rd1+5], %rs1; st.v2.u32 [%rd1+8], {%r5, %r4};
        ld.v2.u32 {%r6, %r7}, [%rd1+8]; add.s32 %r6, %r6, %r7; st.u16 [%rd1+6], %r6;";
    let low = 0x80ff_7f01_u64;
    let sum = u64::from(0x80ff_u16.wrapping_add(0xff80));
    assert_eq!(
        run(body, [0; 3]),
        Ok(low | 0x80 << 32 | 0xff << 40 | sum << 48)
    );
}

#[test]
fn threads_part_and_meet() {
    // Each of 100 threads counts down from its number, in 3 blocks of 50, with a branch inside.
    let text = "
        .version 7.0
        .target sm_75
        .address_size 64
        .visible .entry test(.param .u64 out)
        {
            .reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %rd<4>;
            ld.param.u64 %rd1, [out];
            mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;
            mad.lo.s32 %r4, %r1, %r2, %r3;
            setp.gt.u32 %p1, %r4, 99;
            @%p1 bra END;
            mov.u32 %r5, %r4; mov.u32 %r6, 0;
        LOOP:
            setp.eq.u32 %p2, %r5, 0;
            @%p2 bra DONE;
            and.b32 %r7, %r5, 1;
            setp.eq.u32 %p3, %r7, 1;
            @%p3 bra ODD;
            add.s32 %r6, %r6, 1000;
            bra.uni NEXT;
        ODD:
            add.s32 %r6, %r6, 1;
        NEXT:
            sub.s32 %r5, %r5, 1;
            bra LOOP;
        DONE:
            mul.wide.u32 %rd2, %r4, 4; add.s64 %rd2, %rd1, %rd2;
            st.global.u32 [%rd2], %r6;
        END:
            ret;
        }";
    let module = Module::parse(text).unwrap();
    let mut memory = Flat::new();
    let out = memory.add(&[0; 400]);
    let launch = Launch {
        kernel: &module.kernels[0],
        grid: [3, 1, 1],
        block: [50, 1, 1],
        params: &out.to_le_bytes(),
        variables: &[],
        branches: 1 << 20,
        corruption: None,
    };
    launch.run(&memory).unwrap();
    for (number, bytes) in (0_u32..).zip(memory.read(out, 400).chunks(4)) {
        let expected = (1..=number)
            .map(|step| if step % 2 == 1 { 1 } else { 1000 })
            .sum::<u32>();
        assert_eq!(
            u32::from_le_bytes(bytes.try_into().unwrap()),
            expected,
            "thread {number}"
        );
    }
}

#[test]
fn bad_accesses_hung_kernels_and_traps_stop_a_launch() {
    assert_eq!(
        run("ld.u32 %r4, [%rd2];", [Flat::new().next(), 0, 0]),
        Ok(0),
        "the first piece of memory"
    );
    let illegal = run("ld.u32 %r4, [%rd2+4];", [1 << 50, 0, 0]);
    assert!(
        matches!(
            illegal,
            Err(Stop::Illegal {
                access: Access::Read,
                ..
            })
        ),
        "{illegal:?}"
    );
    let behind = run("st.u64 [%rd1+16], %rd2;", [0; 3]);
    assert!(
        matches!(
            behind,
            Err(Stop::Illegal {
                access: Access::Write,
                ..
            })
        ),
        "{behind:?}"
    );
    let misaligned = run("ld.v2.u32 {%r4, %r5}, [%rd1+4];", [0; 3]);
    assert!(
        matches!(misaligned, Err(Stop::Misaligned { .. })),
        "{misaligned:?}"
    );
    assert_eq!(run("HERE: bra HERE;", [0; 3]), Err(Stop::Timeout));
    assert!(matches!(run("trap;", [0; 3]), Err(Stop::Trap { .. })));
}

#[test]
fn what_is_unknown_is_refused_with_its_line() {
    for (body, complaint) in [
        (
            "frobnicate.u32 %r4, %r1;",
            "`frobnicate.u32` is not supported",
        ),
        ("add.f32 %r4, %r1, %r2;", "`add.f32` is not supported"),
        ("add.cc.u32 %r4, %r1, %r2;", "`add.cc.u32` is not supported"),
        ("bar.sync 0;", "`bar.sync` is not supported"),
        (
            "atom.global.add.u32 %r4, [%rd1], 1;",
            "`atom.global.add.u32` is not supported",
        ),
        (
            "ld.shared.u32 %r4, [%rd1];",
            "`ld.shared.u32` is not supported",
        ),
        (
            "ld.v4.u64 {%rd2, %rd3, %rd4, %rd5}, [%rd1];",
            "vectors have at most 16 bytes",
        ),
        ("add.s32 %r4, %rd1, %r2;", "not of the instruction's width"),
        ("add.s32 %rd4, %r1, %r2;", "not of the instruction's width"),
        ("add.s32 %r4, %r1;", "`add.s32` is not supported"),
        ("add.s32 %r9, %r1, %r2;", "must be a register"),
        ("bra NOWHERE;", "there is no label `NOWHERE`"),
        ("mov.u32 %r4, %laneid;", "`%laneid` is unknown"),
        ("mov.u32 %r4, x;", "`x` is unknown"),
        (
            "ld.param.u64 %rd2, [a+8];",
            "behind the end of parameter `a`",
        ),
        (
            ".shared .align 4 .b8 s[4];",
            "`.shared` inside a kernel is not supported",
        ),
        ("add.s32 %r4, %r1, %r2", "`;` expected"),
    ] {
        let refusal = Module::parse(&module(body)).unwrap_err();
        let line = if complaint == "`;` expected" { 11 } else { 10 };
        assert!(refusal.what.contains(complaint), "{body}: {refusal}");
        assert_eq!(refusal.line, line, "{body}: {refusal}");
    }
}

#[test]
fn no_text_makes_the_reader_panic() {
    // Cuts and single wrong bytes of a module, each of which is refused or still a module.
    let text = module(
        "ld.global.u32 %r4, [%rd1+4]; @%p1 add.s32 %r4, %r1, 5; L: bra L; mov.u32 %r4, %tid.x;",
    );
    for (at, _) in text.char_indices() {
        let _ = Module::parse(&text[..at]);
        for wrong in [";", "{", "9", "%", "x", ".", "\"", "\u{e9}"] {
            let _ = Module::parse(&[&text[..at], wrong, &text[at + 1..]].concat());
        }
    }
}
