//! Code outside of the crate records notes and violations of its policy, and nothing else.

use vram_residency::AuditTrail;
use vram_residency::audit::{PolicyViolation, Receipt, RecordError, Seq};

fn record(trail: &AuditTrail) -> Result<(Seq, Receipt), RecordError> {
    let seq = trail.note("rollout 17 begins")?;
    let receipt = trail.policy_violation(PolicyViolation {
        policy: "models come from the registry",
        violation: "a model was loaded from a home directory",
        details: "/home/somebody/model.safetensors",
        action: "refused",
    })?;
    Ok((seq, receipt))
}

fn main() {
    let _use = record;
}
