//! The names that candle-core takes from its kernels, with nothing behind them.

/// The kernels of one source file.
#[derive(Debug)]
pub struct Module(usize);

impl Module {
    pub fn index(&self) -> usize {
        self.0
    }

    pub fn ptx(&self) -> &'static str {
        ""
    }
}

macro_rules! modules {
    ($($name:ident = $index:literal),+) => {
        $(pub const $name: Module = Module($index);)+
        pub const ALL_IDS: &[usize] = &[$($index),+];
    };
}

modules!(
    AFFINE = 0,
    BINARY = 1,
    CAST = 2,
    CONV = 3,
    FILL = 4,
    INDEXING = 5,
    QUANTIZED = 6,
    REDUCE = 7,
    SORT = 8,
    TERNARY = 9,
    UNARY = 10
);

/// Launches of quantized kernels, by their names in C.
#[allow(non_snake_case, reason = "candle's names")]
pub mod ffi {
    use std::ffi::c_void;

    type In = *const c_void;
    type Out = *mut c_void;

    macro_rules! launches {
        ($arguments:tt: $($name:ident)+) => { $(launches!(@ $name $arguments);)+ };
        (@ $name:ident ($($argument:ty),+)) => {
            /// # Safety
            ///
            /// There is no kernel: it is never called.
            pub unsafe extern "C" fn $name($(_: $argument),+) {
                unreachable!()
            }
        };
    }

    launches!((In, *const i32, Out, i32, i64, i64, i64, i64, i64, i64, i64, i64, Out):
        launch_mmq_quantize_q8_1_D4 launch_mmq_quantize_q8_1_DS4 launch_mmq_quantize_q8_1_D2S6);

    launches!((Out, In, In, Out, i64, i64, i64, i64, i64, i32, i32, i64, i32, Out):
        launch_mmq_gguf_q4_0 launch_mmq_gguf_q4_1 launch_mmq_gguf_q5_0 launch_mmq_gguf_q5_1
        launch_mmq_gguf_q8_0 launch_mmq_gguf_q2_k launch_mmq_gguf_q3_k launch_mmq_gguf_q4_k
        launch_mmq_gguf_q5_k launch_mmq_gguf_q6_k);

    launches!((In, Out, i32, i32, i32, Out):
        launch_mmvq_gguf_quantize_q8_1_bf16 launch_mmvq_gguf_quantize_q8_1_f16
        launch_mmvq_gguf_quantize_q8_1_f32);

    launches!((In, In, Out, i32, i32, i32, i32, i32, Out):
        launch_mmvq_gguf_q4_0_bf16_plain launch_mmvq_gguf_q4_0_f16_plain launch_mmvq_gguf_q4_0_f32_plain
        launch_mmvq_gguf_q4_1_bf16_plain launch_mmvq_gguf_q4_1_f16_plain launch_mmvq_gguf_q4_1_f32_plain
        launch_mmvq_gguf_q5_0_bf16_plain launch_mmvq_gguf_q5_0_f16_plain launch_mmvq_gguf_q5_0_f32_plain
        launch_mmvq_gguf_q5_1_bf16_plain launch_mmvq_gguf_q5_1_f16_plain launch_mmvq_gguf_q5_1_f32_plain
        launch_mmvq_gguf_q8_0_bf16_plain launch_mmvq_gguf_q8_0_f16_plain launch_mmvq_gguf_q8_0_f32_plain
        launch_mmvq_gguf_q2_k_bf16_plain launch_mmvq_gguf_q2_k_f16_plain launch_mmvq_gguf_q2_k_f32_plain
        launch_mmvq_gguf_q3_k_bf16_plain launch_mmvq_gguf_q3_k_f16_plain launch_mmvq_gguf_q3_k_f32_plain
        launch_mmvq_gguf_q4_k_bf16_plain launch_mmvq_gguf_q4_k_f16_plain launch_mmvq_gguf_q4_k_f32_plain
        launch_mmvq_gguf_q5_k_bf16_plain launch_mmvq_gguf_q5_k_f16_plain launch_mmvq_gguf_q5_k_f32_plain
        launch_mmvq_gguf_q6_k_bf16_plain launch_mmvq_gguf_q6_k_f16_plain launch_mmvq_gguf_q6_k_f32_plain);
}
