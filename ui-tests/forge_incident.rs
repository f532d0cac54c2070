//! Making an incident by literal must not compile: E0451.

use vram_residency::audit::{Incident, NotDurable, Receipt};

fn forge(record: Result<Receipt, NotDurable>, another: Incident) -> Incident {
    Incident { record, ..another }
}

fn main() {}
