//! What the public types are and are not: which traits they have, how large they are, what they print.
//!
//! Most of it is asserted while this file is compiled; the tests' names say what holds.

use std::error::Error;
use std::fmt::{Debug, Display};
use std::fs;
use std::hash::Hash;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use static_assertions::{
    assert_impl_all, assert_not_impl_any, assert_type_eq_all, const_assert, const_assert_eq,
    const_assert_ne,
};
use vram_residency::audit::faults::StorageFaults;
use vram_residency::audit::{
    AnchorError, AuditTrailBuilder, Checkpoint, CloseError, Incident, NotDurable, NoteError,
    OpenError, ProofError, ProveError, Receipt, RecordError, VerifierKey,
};
use vram_residency::device::{Device, DeviceError, Faults};
use vram_residency::digest::{DigestError, Stopped};
use vram_residency::error::{
    AllocateAllError, AllocateError, Broken, BuildError, CheckError, LoadError, NoAnswer,
    NotSealed, NotVerified, ReclaimError, ReleaseError, Revoked, SealAllError, SealError,
    VerifyError, WriteError,
};
use vram_residency::id::IdError;
use vram_residency::key::{KeyError, KeyId, SignError};
use vram_residency::manager::VramManagerBuilder;
use vram_residency::shard::{
    Allocated, Batch, Member, Quarantined, Sealed, ShardHandle, State, Verified,
};
use vram_residency::{
    AuditTrail, Digest, Host, Lease, ModelRef, Shard, ShardId, Shared, StreamDigest, TrailKey,
    VramManager, WorkerId, WorkerToken,
};
use vram_trail::process::Forked;

type InAllocated = Shard<Allocated, Host>;
type InSealed = Shard<Sealed, Host>;
type InVerified = Shard<Verified, Host>;
type InQuarantined = Shard<Quarantined, Host>;

/// Asserts that each type has a trait.
macro_rules! all {
    ($($type:ty),+ => $bound:path) => { $(assert_impl_all!($type: $bound);)+ };
}

/// Asserts that no type has any of the traits.
macro_rules! none {
    ($($type:ty),+ => $bounds:tt) => { $(none!(@ $type, $bounds);)+ };
    (@ $type:ty, [$($bound:path),+]) => { assert_not_impl_any!($type: $($bound),+); };
}

#[test]
fn shards_leases_and_errors_go_to_other_threads_and_into_static_structs() {
    trait Anywhere: Send + Sync + 'static {}
    impl<T: Send + Sync + 'static> Anywhere for T {}
    all!(InAllocated, InSealed, InVerified, InQuarantined => Anywhere);
    all!(Shared<Host>, Lease<Host>, ShardHandle, Incident, Receipt => Anywhere);
    all!(Batch<Host>, Member<'static, Host>, Broken<Host>, SealAllError<Host> => Anywhere);
    all!(VramManager<Host>, AuditTrail, WorkerToken => Anywhere);
    all!(SealError<Host>, VerifyError<Host>, ReclaimError<Host> => Anywhere);
    all!(AllocateError, BuildError, CheckError, LoadError, ReleaseError, WriteError => Anywhere);
    all!(AllocateAllError, NotSealed => Anywhere);
    all!(NoAnswer, Revoked, DeviceError, KeyError, SignError => Anywhere);
    all!(CloseError, NotDurable, OpenError, RecordError => Anywhere);
    // The trail owns it and hands it to its writer; a supplied signer need not be shareable.
    assert_impl_all!(TrailKey: Send);
    assert_impl_all!(Host: Device, Anywhere);
}

/// Names and digests are keys of maps, and parts of a service's own configuration and answers.
#[test]
fn names_and_digests_are_keys_and_are_read_and_written() {
    trait Value: Clone + Debug + Hash + Ord + Serialize + DeserializeOwned {}
    impl<T: Clone + Debug + Hash + Ord + Serialize + DeserializeOwned> Value for T {}
    all!(Digest, StreamDigest, ModelRef, ShardId, WorkerId => Value);
    all!(ShardId, WorkerId => AsRef<str>);
    all!(ShardId, WorkerId => TryFrom<String>);
}

#[test]
fn every_error_passes_through_the_question_mark() {
    trait Boxable: Into<Box<dyn Error + Send + Sync + 'static>> {}
    impl<T: Into<Box<dyn Error + Send + Sync + 'static>>> Boxable for T {}
    all!(SealError<Host>, VerifyError<Host>, ReclaimError<Host> => Boxable);
    all!(AllocateAllError, NotSealed, SealAllError<Host> => Boxable);
    all!(AllocateError, BuildError, CheckError, LoadError, ReleaseError, WriteError => Boxable);
    all!(NoAnswer, Revoked, DeviceError, KeyError, SignError => Boxable);
    all!(CloseError, NotDurable, OpenError, RecordError => Boxable);
}

/// And into the crate's own error, which then does not say on which device.
#[test]
fn every_error_converts_into_one() {
    trait One: Into<vram_residency::Error> {}
    impl<T: Into<vram_residency::Error>> One for T {}
    all!(SealError<Host>, VerifyError<Host>, ReclaimError<Host>, SealAllError<Host> => One);
    all!(AllocateAllError, AllocateError, BuildError, CheckError, LoadError => One);
    all!(NoAnswer, ReleaseError, Revoked, WriteError, DeviceError => One);
    all!(CloseError, NotDurable, NoteError, OpenError, ProofError, ProveError => One);
    all!(AnchorError, RecordError, KeyError, SignError, IdError => One);
    all!(DigestError, Stopped, Forked, std::io::Error => One);
    #[cfg(feature = "cuda")]
    assert_impl_all!(vram_residency::device::CudaError: One);
    // The others name no shard, or no operation.
    none!(NotSealed, NotVerified => [Into<vram_residency::Error>]);
    assert_impl_all!(vram_residency::Error: Error, Send, Sync);
    // A `Result` with it is not large.
    const_assert!(size_of::<vram_residency::Error>() <= 128);
    none!(vram_residency::Error => [Clone, Default, From<Incident>, From<Box<Incident>>]);
}

#[test]
fn a_shard_in_any_state_has_one_owner_and_comes_from_nowhere_else() {
    none!(InAllocated, InSealed, InVerified, InQuarantined, Shared<Host> => [Clone, Copy, Default]);
    none!(InAllocated, InSealed, InVerified, InQuarantined, Shared<Host> => [Serialize, DeserializeOwned, PartialEq, PartialOrd, Hash]);
    none!(InAllocated, InSealed, InVerified, InQuarantined, Shared<Host> => [Display]);
    none!(Allocated, Sealed, Verified, Quarantined => [Clone, Copy, Default]);
    none!(Allocated, Sealed, Verified, Quarantined => [Serialize, DeserializeOwned, PartialEq, PartialOrd, Hash]);
    all!(Allocated, Sealed, Verified, Quarantined => State);
    none!(InAllocated, InSealed, InQuarantined, InVerified => [State]);
}

/// Shards of a batch may share memory that is protected as a whole: none leaves it, and none comes in.
#[test]
fn a_batch_gives_no_shard_away_before_all_are_sealed() {
    none!(Batch<Host> => [Clone, Default, Deref, DerefMut, IntoIterator, Extend<InAllocated>]);
    none!(Batch<Host> => [FromIterator<InAllocated>, From<Vec<InAllocated>>, Into<Vec<InAllocated>>]);
    none!(&'static mut Batch<Host> => [IntoIterator]);
    assert_impl_all!(Member<'static, Host>: Deref<Target = InAllocated>);
    none!(Member<'static, Host> => [Clone, DerefMut, AsMut<InAllocated>, Into<InAllocated>]);
    none!(Member<'static, Host> => [From<&'static mut InAllocated>]);
    none!(SealAllError<Host>, Broken<Host> => [Clone, Default, From<Incident>]);
}

#[test]
fn no_state_turns_into_another_by_conversion() {
    none!(InVerified => [From<InAllocated>, From<InSealed>, From<InQuarantined>, From<Shared<Host>>]);
    none!(InVerified => [From<Verified>, From<Box<InQuarantined>>]);
    none!(InSealed => [From<InAllocated>, From<InVerified>, From<InQuarantined>]);
    none!(InAllocated => [From<InSealed>, From<InVerified>, From<InQuarantined>]);
    none!(Verified => [From<Allocated>, From<Sealed>, From<Quarantined>]);
    none!(Lease<Host> => [From<InVerified>, From<InSealed>, From<Shared<Host>>]);
}

/// What injects faults says so by its name.
#[test]
fn faults_are_made_by_a_dangerous_name_only() {
    none!(StorageFaults, Faults => [Default]);
}

#[test]
fn evidence_cannot_be_made_up_or_read_back_in() {
    none!(Incident => [Clone, Copy, Default, Serialize, DeserializeOwned, PartialEq]);
    none!(Receipt => [Copy, Default, Serialize, DeserializeOwned, From<Checkpoint>]);
    none!(Lease<Host> => [Copy, Default, Serialize, DeserializeOwned, PartialEq]);
    none!(ShardHandle => [Default, DeserializeOwned]);
    none!(SealError<Host>, VerifyError<Host>, CheckError => [Clone, Default, DeserializeOwned]);
    none!(SealError<Host>, VerifyError<Host>, CheckError => [From<Incident>, From<Box<Incident>>]);
    // The record of a failure may be passed on: it proves what it proved.
    assert_impl_all!(Receipt: Clone, Debug);
}

#[test]
fn bytes_are_read_through_a_view_and_in_no_other_way() {
    assert_type_eq_all!(<Host as Device>::View<'static>, &'static [u8]);
    none!(InVerified, Lease<Host> => [Deref, DerefMut, AsRef<[u8]>, AsMut<[u8]>, IntoIterator]);
    none!(Shared<Host> => [Deref, AsRef<[u8]>]);
    none!(InAllocated, InSealed, InQuarantined => [Deref, AsRef<[u8]>, AsMut<[u8]>]);
    assert_impl_all!(Lease<Host>: Clone);
}

#[test]
fn the_owners_of_trail_and_memory_are_not_cloned() {
    none!(AuditTrail, AuditTrailBuilder => [Clone, Default]);
    none!(VramManager<Host>, VramManagerBuilder<Host> => [Clone, Default]);
}

#[test]
fn secrets_do_not_print_copy_compare_or_serialize() {
    none!(WorkerToken, TrailKey => [Clone, Copy, Default, Display]);
    none!(WorkerToken, TrailKey => [PartialEq, PartialOrd, Hash, Serialize, DeserializeOwned]);
    none!(WorkerToken, TrailKey => [AsRef<[u8]>, Deref, Into<Vec<u8>>, secrecy::ExposeSecret<[u8]>]);
    // Names and public halves may be told.
    assert_impl_all!(KeyId: Copy, Display, Eq);
    assert_impl_all!(VerifierKey: Clone, Display, Eq);
}

#[test]
fn debug_output_has_no_secrets() {
    let secret: Vec<u8> = (100..164).collect();
    let token = WorkerToken::new(secret.clone().into()).unwrap();
    let printed = format!("{token:?} {token:#?}");
    assert_eq!(printed, "WorkerToken(..) WorkerToken(..)");

    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("key.pem");
    let key = TrailKey::open_or_create(&path).unwrap();
    // A PKCS#8 file of an Ed25519 key, version 1 or 2, has the secret at a fixed place.
    let pem = fs::read_to_string(&path).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, base64).unwrap();
    assert_eq!(der[12..16], [0x04, 0x22, 0x04, 0x20]);
    let private = hex::encode(&der[16..48]);
    let printed = format!("{key:?} {key:#?}");
    assert!(!printed.contains(&private[..16]), "{printed}");
}

#[test]
fn states_differ_in_size_so_that_none_can_be_taken_for_another() {
    const_assert_ne!(size_of::<Allocated>(), size_of::<Sealed>());
    const_assert_ne!(size_of::<Allocated>(), size_of::<Verified>());
    const_assert_ne!(size_of::<Allocated>(), size_of::<Quarantined>());
    const_assert_ne!(size_of::<Sealed>(), size_of::<Verified>());
    const_assert_ne!(size_of::<Sealed>(), size_of::<Quarantined>());
    const_assert_ne!(size_of::<Verified>(), size_of::<Quarantined>());
}

#[test]
fn a_lease_is_one_pointer_and_a_view_a_slice() {
    const_assert_eq!(size_of::<Lease<Host>>(), size_of::<usize>());
    const_assert_eq!(size_of::<Option<Lease<Host>>>(), size_of::<usize>());
    const_assert_eq!(
        size_of::<<Host as Device>::View<'static>>(),
        size_of::<&[u8]>()
    );
}

#[test]
fn results_are_moved_cheaply() {
    // What clippy calls a large error.
    const_assert!(size_of::<SealError<Host>>() <= 128);
    const_assert!(size_of::<SealAllError<Host>>() <= 128);
    const_assert!(size_of::<VerifyError<Host>>() <= 128);
    const_assert!(size_of::<CheckError>() <= 128);
    const_assert!(size_of::<ReclaimError<Host>>() <= 128);
    const_assert!(size_of::<AllocateError>() <= 128);
    const_assert!(size_of::<LoadError>() <= 128);
    const_assert!(size_of::<NotDurable>() <= 64);
    // A shard is moved by every transition: handles, not bytes.
    const_assert!(size_of::<Result<InVerified, VerifyError<Host>>>() <= 512);
    const_assert!(size_of::<Result<InSealed, SealError<Host>>>() <= 512);
    println!(
        "allocated {}, sealed {}, verified {}, quarantined {}, shared {}, errors {} {} {}",
        size_of::<InAllocated>(),
        size_of::<InSealed>(),
        size_of::<InVerified>(),
        size_of::<InQuarantined>(),
        size_of::<Shared<Host>>(),
        size_of::<SealError<Host>>(),
        size_of::<VerifyError<Host>>(),
        size_of::<CheckError>(),
    );
}

/// Nobody can match one of them without a wildcard, so that a new cause breaks no caller. One of
/// them is shown by a case in `ui-tests/`; here it is asked of all.
#[test]
fn every_public_error_enum_is_non_exhaustive() {
    let mut seen = 0;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = ["src", "trail/src", "digest/src"].map(|folder| sources(&root.join(folder)));
    for path in all.concat() {
        let mut attributes: Vec<String> = Vec::new();
        for line in fs::read_to_string(&path).unwrap().lines() {
            if line.starts_with("#[") {
                attributes.push(line.to_owned());
                continue;
            }
            let is_error = attributes.iter().any(|line| line.contains("thiserror"));
            if is_error && line.starts_with("pub enum ") {
                let marked = attributes.iter().any(|line| line == "#[non_exhaustive]");
                assert!(marked, "{}: {line}", path.display());
                seen += 1;
            }
            attributes.clear();
        }
    }
    assert!(seen > 15, "only {seen} error enums were found");
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

#[cfg(feature = "cuda")]
mod in_a_gpu {
    use super::*;
    use vram_residency::device::cudarc::driver::{self, DevicePtr, DevicePtrMut, DeviceSlice};
    use vram_residency::device::{Cuda, CudaBuilder, CudaError, CudaView, Protection, Share};

    type Allocated = Shard<super::Allocated, Cuda>;
    type Sealed = Shard<super::Sealed, Cuda>;
    type Verified = Shard<super::Verified, Cuda>;
    type Quarantined = Shard<super::Quarantined, Cuda>;

    #[test]
    fn everything_goes_to_other_threads_and_into_static_structs() {
        trait Anywhere: Send + Sync + 'static {}
        impl<T: Send + Sync + 'static> Anywhere for T {}
        all!(Allocated, Sealed, Verified, Quarantined => Anywhere);
        all!(Shared<Cuda>, Lease<Cuda>, VramManager<Cuda>, Cuda, CudaBuilder => Anywhere);
        all!(CudaView<'static>, CudaError => Anywhere);
        all!(SealError<Cuda>, VerifyError<Cuda>, ReclaimError<Cuda> => Anywhere);
        assert_impl_all!(Cuda: Device);
    }

    #[test]
    fn a_view_is_read_by_cudarc_and_written_by_nobody() {
        assert_type_eq_all!(<Cuda as Device>::View<'static>, CudaView<'static>);
        assert_impl_all!(CudaView<'static>: DeviceSlice<u8>, DevicePtr<u8>, Copy);
        none!(CudaView<'static>, driver::CudaView<'static, u8> => [DevicePtrMut<u8>]);
        // A reference to either may be what cudarc asks for, too.
        none!(&'static mut CudaView<'static> => [DevicePtrMut<u8>]);
        none!(CudaView<'static> => [Deref, DerefMut, AsRef<[u8]>, AsMut<[u8]>, Default]);
        none!(CudaView<'static> => [From<driver::CudaView<'static, u8>>, Into<driver::CudaSlice<u8>>]);
        none!(CudaView<'static> => [driver::DeviceRepr, Serialize, DeserializeOwned]);
        none!(Verified, Lease<Cuda>, Shared<Cuda> => [DeviceSlice<u8>, DevicePtr<u8>, DevicePtrMut<u8>]);
        none!(Allocated, Sealed, Quarantined => [DeviceSlice<u8>, DevicePtr<u8>, DevicePtrMut<u8>]);
    }

    #[test]
    fn a_gpu_and_its_shards_have_one_owner() {
        none!(Cuda => [Clone, Default, PartialEq, Hash, Serialize, DeserializeOwned]);
        none!(Allocated, Sealed, Verified, Quarantined, Shared<Cuda> => [Clone, Copy, Default]);
        none!(Verified => [From<Allocated>, From<Sealed>, From<Quarantined>, From<Shared<Cuda>>]);
        none!(CudaBuilder => [Default, PartialEq, DeserializeOwned]);
        assert_impl_all!(CudaBuilder: Clone);
    }

    #[test]
    fn choices_are_plain_values_and_unprotected_is_never_the_default() {
        all!(Protection, Share => Copy);
        all!(Protection, Share => Eq);
        assert_eq!(Protection::default(), Protection::Required);
        none!(Share => [Default, From<u8>, Into<u8>]);
    }

    #[test]
    fn all_of_it_prints_for_debugging_and_errors_for_people() {
        all!(Cuda, CudaBuilder, CudaView<'static>, CudaError, Protection, Share => Debug);
        all!(Verified, Lease<Cuda>, Shared<Cuda> => Debug);
        trait Boxable: Into<Box<dyn Error + Send + Sync + 'static>> {}
        impl<T: Into<Box<dyn Error + Send + Sync + 'static>>> Boxable for T {}
        all!(CudaError, SealError<Cuda>, VerifyError<Cuda>, ReclaimError<Cuda> => Boxable);
        none!(CudaError => [Clone, Default, PartialEq]);
    }

    #[test]
    fn a_lease_is_one_pointer_and_a_view_another() {
        const_assert_eq!(size_of::<Lease<Cuda>>(), size_of::<usize>());
        const_assert_eq!(size_of::<CudaView<'static>>(), size_of::<usize>());
        const_assert!(size_of::<SealError<Cuda>>() <= 128);
        const_assert!(size_of::<VerifyError<Cuda>>() <= 128);
        const_assert!(size_of::<CudaError>() <= 128);
    }
}
