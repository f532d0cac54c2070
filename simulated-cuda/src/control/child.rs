//! Tests in processes of their own, because the driver's state belongs to the process, and the
//! tests of one file share a process.

use std::process::Command;

use super::Driver;

/// The variable that is set in a child, to the name of its test.
const VARIABLE: &str = "SIMULATED_CUDA_CHILD";

/// Runs the calling test again in a child process, and `body` there, with the driver loaded.
///
/// Fails with the child's output if the child fails or does not reach the end of `body`. This call
/// must be the whole body of a `#[test]` function, because the type of `body` contains the test's
/// name.
///
/// ```no_run
/// #[test]
/// fn there_is_one_device_by_default() {
///     simulated_cuda::in_child(|driver| {
///         // `cuInit` and so on, through cudarc or not
///         assert_eq!(driver.counters().launches, 0);
///     });
/// }
/// ```
///
/// # Panics
/// If the child fails or does not reach the end of `body`.
pub fn in_child<F: FnOnce(Driver)>(body: F) {
    in_child_without(&[], body);
}

/// Runs a test as [`in_child`] does, with a driver that lacks some entry points, as an old one
/// does.
///
/// # Panics
/// As [`in_child`], and if the driver has no such entry point.
pub fn in_child_without<F: FnOnce(Driver)>(symbols: &[&str], body: F) {
    let name = test_name(std::any::type_name::<F>());
    let done = format!("simulated-cuda: `{name}` came to its end");
    if std::env::var(VARIABLE).is_ok_and(|child| child == name) {
        body(Driver::load_without(symbols));
        println!("\n{done}");
        return;
    }
    let executable = std::env::current_exe().expect("the test's own path");
    let output = Command::new(executable)
        .args([
            name,
            "--exact",
            "--include-ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(VARIABLE, name)
        .output()
        .expect("the test can be started again");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let finished = text.lines().any(|line| line == done);
    assert!(
        output.status.success() && finished,
        "`{name}` failed in its child ({}, {}):\n{text}{errors}",
        output.status,
        if finished {
            "after its body"
        } else {
            "its body did not come to its end"
        },
    );
}

/// Returns the name that the test harness has for the test of a closure.
///
/// This is `crate::module::test::{{closure}}` without the crate and without the closure.
fn test_name(closure: &'static str) -> &'static str {
    let function = closure.split("::{{").next().unwrap_or(closure);
    function.split_once("::").map_or(function, |(_, name)| name)
}
