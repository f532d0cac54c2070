//! The meaning of a trail's events and fields, as data. Tests of the crates that record these
//! events compare them with it.

/// The meaning of an origin.
pub(crate) const ORIGIN: &str =
    "name of the trail: crate, worker, 16 random hexadecimal digits made with the trail";

/// Events: name and meaning, sorted.
pub(crate) const EVENTS: &[(&str, &str)] = &[
    (
        "AnchorContradicted",
        "An anchor remembers another or a longer trail than the one in the directory.",
    ),
    (
        "AnchorFailed",
        "An anchor does not keep checkpoints: once for each outage.",
    ),
    (
        "AnchorPartlyCompared",
        "The trail was compared with a part of what an anchor keeps.",
    ),
    ("AnchorRecovered", "An anchor keeps checkpoints again."),
    (
        "AuditDegraded",
        "Too large a share of the records was lost, or that has ended.",
    ),
    (
        "ClockStepped",
        "The wall clock jumped against the time since boot.",
    ),
    (
        "DeviceFailed",
        "A device failed at a copy, a load or a free, or was lost while it held a shard.",
    ),
    (
        "DeviceOpened",
        "A manager was built for a GPU: which one it is, and what is known of where its memory lies.",
    ),
    (
        "KeyChanged",
        "The last record under the trail's old key; the next segment is signed with the new one.",
    ),
    ("Note", "A text that the worker's own code put on record."),
    (
        "NumbersReserved",
        "The bound of the numbers is raised; a run after a kill begins at the last bound.",
    ),
    (
        "PolicyViolation",
        "Something against a policy: the operator's (by caller), or the library's (by library).",
    ),
    (
        "RecordsLost",
        "Records had a number and found no room: they are not in the trail.",
    ),
    (
        "SealVerificationFailed",
        "A shard failed its verification, or was not verified in time or to the end (see reason). It is served no more.",
    ),
    (
        "SealVerified",
        "A shard was read back from its device and found equal to its seal.",
    ),
    (
        "SegmentOpened",
        "The same process goes on in a new segment. This is its header.",
    ),
    (
        "SegmentPoisoned",
        "A write or sync failed, memory erred, or somebody else changed the file; what was not yet durable was written again into a new segment. With operation `read again`: a finished segment does not hold what was signed.",
    ),
    (
        "TailRecovered",
        "The process before did not close the trail, or left bytes that no checkpoint acknowledges.",
    ),
    ("TrailClosed", "The worker closed the trail properly."),
    (
        "TrailOpened",
        "A process opened the trail. This is the header of its first segment.",
    ),
    (
        "VerificationInconclusive",
        "A verification ended without an answer, or exceeded its deadline; whether the bytes are good is unknown.",
    ),
    (
        "VerificationOverdue",
        "The last whole check of a shared shard is older than allowed; its leases are not current.",
    ),
    ("VramAllocated", "Memory was given to a shard."),
    ("VramAllocationFailed", "Memory was refused."),
    ("VramDeallocated", "A shard's memory was given back."),
    (
        "VramSealed",
        "A shard's bytes are fixed: this digest is what it must hold from now on.",
    ),
];

/// Fields with a special meaning in some events.
pub(crate) const OF_EVENTS: &[(&[&str], &str, &str)] = &[
    (
        &["AnchorContradicted"],
        "root",
        "root of the Merkle tree that the anchor keeps",
    ),
    (
        &["AnchorContradicted"],
        "size",
        "number of leaves that the anchor keeps",
    ),
    (
        &["AnchorFailed"],
        "size",
        "number of leaves of the checkpoint that it does not keep",
    ),
    (
        &["KeyChanged"],
        "key",
        "verifier key of everything that follows",
    ),
    (
        &["RecordsLost"],
        "count",
        "how many of the lost records had a number",
    ),
    (
        &["RecordsLost"],
        "unnumbered",
        "how many more were lost and had no number",
    ),
    (&["RecordsLost"], "first", "number of the first one"),
    (&["RecordsLost"], "last", "number of the last one"),
    (
        &["SegmentPoisoned"],
        "segment",
        "number of the segment that was given up or is damaged",
    ),
    (
        &["TailRecovered"],
        "segment",
        "number of the segment that the process before left",
    ),
    (
        &["VramAllocationFailed"],
        "reason",
        "why, by the device's account",
    ),
];

/// Fields of any event: name and meaning, sorted.
pub(crate) const FIELDS: &[(&str, &str)] = &[
    (
        "action",
        "what was done about it, by the operator's account",
    ),
    (
        "actual",
        "digest of what was found, SHA-256: of the fs-verity format or plain, as `expected`",
    ),
    (
        "allocated_bytes",
        "bytes taken from the device, rounded up to its pages",
    ),
    (
        "allocation",
        "number of the allocation, from 1 in each process: tells shards of one name apart",
    ),
    ("anchor", "which anchor: its kind and address"),
    (
        "anchor_every_ms",
        "after which time new records are handed to the anchors, in milliseconds",
    ),
    (
        "anchor_every_records",
        "after how many records a checkpoint is handed to the anchors",
    ),
    (
        "anchors",
        "names of the places that are given checkpoints, the log first",
    ),
    ("attempts", "records given to the trail within the window"),
    (
        "available_bytes",
        "bytes that the device had left for shards, after this; `unknown` where no file says how many",
    ),
    ("basis", "why so long, by the operator's account"),
    (
        "boot",
        "the kernel's boot id (/proc/sys/kernel/random/boot_id); `unknown-` and a random number where it cannot be read",
    ),
    (
        "by",
        "who made the record: the library, of what it did or saw itself, or its caller",
    ),
    ("bytes", "length in bytes"),
    (
        "cause",
        "what went wrong, in the words of the system or device",
    ),
    ("comparison", "what could not be compared, or was not"),
    (
        "contradiction",
        "`different` or `shorter`: what the trail is, compared with the anchor",
    ),
    ("crate_version", "version of vram-residency that wrote this"),
    (
        "critical_deadline_ms",
        "how long a critical record may take, in milliseconds",
    ),
    (
        "damaged",
        "windows of 512 KiB that differ: half-open ranges, at most 256 of them",
    ),
    (
        "damaged_windows",
        "how many windows of 512 KiB differ from the kept tree",
    ),
    ("degraded", "true: too much is lost; false: that has ended"),
    ("detail", "more about it, in words"),
    (
        "details",
        "what else a reviewer should know, by the operator's account",
    ),
    (
        "device",
        "the device that holds the shard, by its own account",
    ),
    (
        "digest",
        "fs-verity digest (SHA-256) of the device's bytes: `fsverity digest` of the same bytes",
    ),
    (
        "directory_access",
        "who may use the trail's directory: owner_only, or owner_and_group",
    ),
    (
        "dumpable",
        "true: the kernel refused to keep the memory out of core dumps",
    ),
    (
        "durable_within_ms",
        "within which time an ordinary record is durable, in milliseconds",
    ),
    (
        "end_window",
        "the window behind the last one checked (of 512 KiB, from 0)",
    ),
    (
        "epoch",
        "random number of the manager that sealed, hexadecimal: tells processes apart",
    ),
    ("event", "what happened: the name of the event"),
    (
        "expected",
        "digest that was proven or asked for, SHA-256: of the fs-verity format or plain",
    ),
    (
        "failure_threshold_per_mille",
        "how many of a thousand records may be lost within that window before AuditDegraded",
    ),
    (
        "failure_window_s",
        "length of the window over which losses are looked at, in seconds",
    ),
    ("failures", "records lost within the window"),
    (
        "fault_injection",
        "true: the worker was built to let faults be injected, which is for tests only",
    ),
    (
        "features",
        "features that the worker's library was built with",
    ),
    (
        "file_system",
        "what the trail's directory is on, as the kernel calls it",
    ),
    (
        "first_leaf",
        "number of leaves (records) before this segment",
    ),
    ("first_time", "time of the first lost record"),
    (
        "first_window",
        "the first window checked (of 512 KiB, from 0)",
    ),
    (
        "fork_guard",
        "what tells a forked child from its worker: wiped_on_fork (the kernel, for every child), or at_fork (the C library, and the process id: weaker)",
    ),
    (
        "format",
        "version of the trail's format that this run was written in",
    ),
    ("freed", "whether the device took the memory back"),
    ("freed_bytes", "bytes given back to the device"),
    (
        "highest_seq",
        "the highest number that the process before may have given (format 1: that was seen in that segment)",
    ),
    (
        "identity",
        "what tells the device from others, as seals bind it",
    ),
    (
        "ignored_unverifiable_anchors",
        "anchors of which an unsigned checkpoint is ignored",
    ),
    (
        "inherited",
        "whether the process forked while it had the memory: a child that still lives keeps a copy, which was not wiped",
    ),
    ("injected", "true: a test made this happen"),
    (
        "kept",
        "where what was synced is: on_disk, by_server (a server, or the host of a sandbox), overlay_layer (gone with its container), in_memory (gone with the pod or at the machine's next start), not_synced (no sync reaches the disk), unknown",
    ),
    (
        "kernel_sha256",
        "SHA-256 of the code with which GPUs hash, as PTX",
    ),
    (
        "key",
        "verifier key of this segment, for comfort: trust only a key that came to you otherwise",
    ),
    (
        "key_access",
        "who could read the trail's key: owner_only or owner_and_group of a file; memory: given by the worker's own code; signer: it is elsewhere",
    ),
    (
        "key_id",
        "name of the key that authenticates seals, hexadecimal; reveals nothing of it",
    ),
    ("last_time", "time of the last lost record"),
    (
        "last_verified_seq",
        "number of the record of the last good verification",
    ),
    ("last_verified_time", "its time"),
    ("live", "shards that still live, at most 128 of them"),
    (
        "live_shards",
        "how many shards still lived: leaked, or outliving the trail",
    ),
    (
        "locks",
        "what keeps a second writer out: directory_and_file, file (a directory is not locked, or not for other machines), unknown (locks may not reach other machines), this_machine (they do not)",
    ),
    (
        "max_age_ms",
        "how old the last whole check may be, in milliseconds",
    ),
    (
        "memory_locked",
        "whether the kernel keeps the memory from being swapped",
    ),
    ("model", "name of the model, by the caller's account"),
    ("model_index", "which part of the model, from 0"),
    ("model_total", "in how many parts"),
    (
        "mono_us",
        "microseconds since the process opened the trail, time asleep included; never jumps",
    ),
    (
        "new_origin_beside",
        "other trails of this worker that anchors may know",
    ),
    (
        "numbers_below",
        "bound of the numbers until a later record raises it: a run after a kill begins there",
    ),
    (
        "offset",
        "byte at which this line starts in its segment: shows a line deleted before it",
    ),
    ("open_verifications", "how many had no outcome then"),
    ("operation", "what was being done"),
    ("origin", ORIGIN),
    ("outcome", "success or failure"),
    ("policy", "name of the policy, by the operator's account"),
    (
        "previous",
        "end of the segment before: its number, byte offset, void bytes, checkpoint, the frontier there, and voided: checkpoints that were signed behind it and never acknowledged",
    ),
    ("previous_key", "verifier key of everything before"),
    (
        "proven",
        "what was proven about where the device's memory lies",
    ),
    (
        "provenance",
        "what the digest was compared with when sealed: fs_verity, sha256, or unpinned_first_use (nothing)",
    ),
    ("queue_records", "how many records can wait for the disk"),
    (
        "read_only",
        "whether the MMU keeps the memory from being written",
    ),
    (
        "reason",
        "why: digest_mismatch, signature_invalid, provenance_mismatch, spot_check_mismatch, device_error, interrupted, deadline_exceeded (the bytes were not found bad: nothing was found in time)",
    ),
    (
        "refused_calls",
        "system calls that the worker's sandbox refuses, and that it does without, such as fadvise64 (a segment of an earlier run was read from the page cache) or mlock",
    ),
    ("requested_bytes", "bytes that the caller asked for"),
    (
        "reserved_records",
        "how many critical records have room beyond that",
    ),
    (
        "retention",
        "how long these records are to be kept (ISO 8601) and on which basis, by the operator's account",
    ),
    ("sealed_seq", "number of the record of sealing"),
    ("sealed_time", "time of sealing, wall clock"),
    ("segment", "number of this segment, that of its file name"),
    (
        "segment_age_s",
        "how old a segment is when the next one is begun, in seconds",
    ),
    (
        "segment_bytes",
        "how large a segment is when the next one is begun, in bytes",
    ),
    (
        "seq",
        "number of the record, given when it was made; no number is missing without a reason",
    ),
    ("severity", "INFO, WARN or CRITICAL"),
    (
        "shard",
        "name of the shard: one allocation that holds one part of a model",
    ),
    ("size", "number of leaves (records) of the checkpoint"),
    ("step_ns", "its jump in nanoseconds; negative is back"),
    (
        "stream_sha256",
        "plain SHA-256 of the stream it was loaded from, as asked for: `sha256sum`",
    ),
    ("text", "the note, in the words of the worker's own code"),
    (
        "time",
        "wall clock of the worker's machine, RFC 3339, UTC; whoever sets the clock chooses it",
    ),
    (
        "token_access",
        "who could read the worker's token: owner_only or owner_and_group of a file; memory: given by the worker's own code",
    ),
    ("unproven", "what could not be proven about it"),
    (
        "unwritable",
        "why the fields of the entry are missing: it was too long, or could not be written as JSON",
    ),
    (
        "used_bytes",
        "bytes that the manager's shards use, after this",
    ),
    (
        "violation",
        "what was against it, by the operator's account",
    ),
    ("void_bytes", "how many bytes no checkpoint acknowledges"),
    ("void_from", "byte at which they begin"),
    ("void_records", "how many whole records are among them"),
    (
        "window_s",
        "length of the window that is looked at, in seconds",
    ),
    ("wiped", "whether the bytes were overwritten first"),
    ("worker", "name of the worker, as it was configured"),
];
