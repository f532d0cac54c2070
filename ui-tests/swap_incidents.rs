//! Exchanging the incidents of two failed shards must not compile: E0616.

use vram_residency::Host;
use vram_residency::error::Broken;

fn swap(one: &mut Broken<Host>, other: &mut Broken<Host>) {
    std::mem::swap(&mut one.incident, &mut other.incident);
}

fn main() {}
