//! Making a receipt by literal must not compile: E0451.

use vram_residency::audit::{Receipt, Seq};

fn forge(seq: Seq, another: Receipt) -> Receipt {
    Receipt { seq, ..another }
}

fn main() {}
