//! A refusal that says no more than its name is matched by its name.

use vram_residency::audit::{CloseError, NotDurable};
use vram_residency::error::{CheckError, NotSealed, Revoked};

fn is_final(error: &CheckError) -> bool {
    match error {
        CheckError::AlreadyFailed | CheckError::Broken { .. } => true,
        CheckError::Inconclusive { source, .. } => source.to_string().is_empty(),
        _ => false,
    }
}

fn must_load_again(error: Revoked) -> bool {
    matches!(error, Revoked::Failed)
}

fn has_no_stream(error: &NotSealed) -> bool {
    matches!(error, NotSealed::NoStreamDigest)
}

fn is_over(record: &NotDurable, end: &CloseError) -> bool {
    matches!(record, NotDurable::Closed | NotDurable::WriterStopped)
        && matches!(end, CloseError::WriterStopped)
}

fn main() {
    let _uses = (is_final, must_load_again, has_no_stream, is_over);
}
