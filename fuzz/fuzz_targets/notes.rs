//! Text that claims to be a checkpoint or a verifier key.
//!
//! What parses is written again as the same bytes: no second text passes for the same statement. And
//! the parts of a checkpoint are those that the text shows.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vram_trail::{Checkpoint, VerifierKey};

fuzz_target!(|text: &str| {
    if let Ok(checkpoint) = text.parse::<Checkpoint>() {
        assert_eq!(checkpoint.to_string(), text);
        let mut lines = text.split('\n');
        assert_eq!(lines.next(), Some(checkpoint.origin()));
        assert_eq!(lines.next(), Some(checkpoint.size().to_string().as_str()));
        let signed = checkpoint.signed_text();
        assert!(signed.ends_with('\n') && text.starts_with(signed));
        assert!(text[signed.len()..].starts_with("\n\u{2014} "));
        let again: Checkpoint = checkpoint
            .to_string()
            .parse()
            .expect("what it wrote itself");
        assert_eq!(again, checkpoint);
        // Signatures of others are kept, and change nothing that is signed.
        let more = format!("{text}\u{2014} w AAAAAAAAAAAA\n");
        if let Ok(more) = more.parse::<Checkpoint>() {
            assert_eq!(more.to_string(), format!("{text}\u{2014} w AAAAAAAAAAAA\n"));
            assert_eq!(more.signed_text(), signed);
            assert_eq!(more.root(), checkpoint.root());
        }
    }
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text);
        assert!(text.starts_with(key.name()));
    }
});
