//! Making the word of a stopped callback by literal must not compile: E0423.

use vram_residency::digest::Stopped;

fn forge() -> Stopped {
    Stopped
}

fn main() {}
