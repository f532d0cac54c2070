//! Making the word of a stopped callback by literal must not compile: E0423.

use vram_residency::digest::Stopped;
use vram_residency::error::NoAnswer;

fn forge() -> NoAnswer {
    NoAnswer::Stopped(Stopped)
}

fn main() {}
