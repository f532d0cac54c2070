//! The machine of the measurement, and the limits of its hardware.

use std::process::{Command, Stdio};

use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUdevice_attribute as Attribute;

use crate::kernels::attribute;

pub struct Machine {
    multiprocessors: f64,
    capability: (i32, i32),
    /// The clock in kHz: the highest that the driver reports.
    clock: f64,
    /// The memory bandwidth in bytes per second.
    memory: Option<f64>,
    pub cores: usize,
}

impl Machine {
    pub fn look(context: &CudaContext, identity: &str) -> Self {
        use Attribute::{
            CU_DEVICE_ATTRIBUTE_CLOCK_RATE as CLOCK,
            CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH as BUS_WIDTH,
            CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE as MEMORY_CLOCK,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
        };
        let number = |which| attribute(context, which).map(f64::from);
        let (clock, memory_clock) = (number(CLOCK), number(MEMORY_CLOCK));
        // Two transfers per clock, of `width` bits.
        let memory = memory_clock
            .zip(number(BUS_WIDTH))
            .map(|(clock, width)| 2.0 * clock * 1e3 * width / 8.0);
        let machine = Self {
            multiprocessors: number(MULTIPROCESSORS).unwrap_or(f64::NAN),
            capability: context.compute_capability().unwrap_or_default(),
            clock: clock.unwrap_or(f64::NAN),
            memory,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        };
        println!("GPU: {identity}");
        println!(
            "{} multiprocessors, at most {:.0} MHz as the driver tells; memory {}; {} CPU cores",
            machine.multiprocessors,
            machine.clock / 1e3,
            match memory {
                Some(memory) => format!("{:.0} GB/s by clock and width", memory / 1e9),
                None => "of unknown bandwidth".into(),
            },
            machine.cores
        );
        println!("nvidia-smi, at rest: {}", smi());
        machine
    }

    /// Returns the limit of the integer units in hashed bytes per second.
    ///
    /// Each multiprocessor has 64 lanes, and 64 bytes take the kernel's number of instructions.
    /// Without a given clock, the highest is used.
    pub fn integer_pipe(&self, mhz: Option<f64>) -> f64 {
        let instructions = instructions(self.capability).unwrap_or(f64::NAN);
        let clock = mhz.map_or(self.clock * 1e3, |mhz| mhz * 1e6);
        self.multiprocessors * 64.0 * clock / instructions * 64.0
    }

    pub fn memory(&self) -> Option<f64> {
        self.memory
    }
}

/// The table that CI keeps current.
const CODE: &str = include_str!("../../src/device/cuda/CODE.md");

/// Returns the instructions for 64 bytes, for the newest listed architecture whose code this GPU
/// can run.
fn instructions((major, minor): (i32, i32)) -> Option<f64> {
    let rows = CODE.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let architecture: i32 = cells.next()?.strip_prefix("sm_")?.parse().ok()?;
        let instructions: f64 = cells.nth(2)?.parse().ok()?;
        Some((architecture, instructions))
    });
    rows.filter(|(architecture, _)| *architecture <= 10 * major + minor)
        .max_by_key(|(architecture, _)| *architecture)
        .map(|(_, instructions)| instructions)
}

const QUERY: &str = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu";

fn smi() -> String {
    match ask().output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "does not run".into(),
    }
}

fn ask() -> Command {
    let mut command = Command::new("nvidia-smi");
    command
        .args(["--id=0", "--format=csv,noheader"])
        .arg(format!("--query-gpu={QUERY}"));
    command
}

/// Returns the report of `nvidia-smi` during `work`, and the multiprocessors' clock in MHz if
/// reported.
pub fn smi_during(mut work: impl FnMut()) -> (String, Option<f64>) {
    let asked = ask().stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let Ok(mut asked) = asked else {
        return ("does not run".into(), None);
    };
    while matches!(asked.try_wait(), Ok(None)) {
        work();
    }
    let told = asked.wait_with_output();
    let told = told.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    });
    let clock = told
        .split(',')
        .nth(1)
        .and_then(|clock| clock.trim().strip_suffix(" MHz")?.parse().ok());
    (told, clock)
}
