//! The choice of windows for spot checks. Whole verifications are tested through the public API.

use super::sample;

/// The documented odds of spot checks rest on this: `count` windows, none twice, each as likely as
/// any other.
#[test]
#[cfg_attr(miri, ignore = "needs many rounds")]
fn each_window_is_chosen_as_often_as_any_other() {
    const WINDOWS: u64 = 10;
    const COUNT: usize = 3;
    const ROUNDS: u32 = 20_000;
    let mut chosen = [0_u32; WINDOWS as usize];
    for _ in 0..ROUNDS {
        let windows = sample(WINDOWS, COUNT).unwrap();
        assert_eq!(windows.len(), COUNT);
        for window in windows {
            chosen[window as usize] += 1;
        }
    }
    // A binomial of 20 000 at 3/10 has a standard deviation of 65; the bounds are five of them on
    // each side.
    for times in chosen {
        assert!((5675..=6325).contains(&times), "{chosen:?}");
    }
}

#[test]
fn few_windows_are_all_chosen() {
    for windows in 1..=4 {
        let all: Vec<u64> = (0..windows).collect();
        assert!(sample(windows, 4).unwrap().into_iter().eq(all));
    }
    assert!(sample(4, 0).unwrap().is_empty());
}
