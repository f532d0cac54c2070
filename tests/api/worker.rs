//! The example worker as its user sees it: what it prints, where it puts things, how it ends.
//!
//! The built example is run (`cargo test` builds it), and the commands that it prints are run by a
//! shell, with tools that are not ours.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::{example, of_event, records, skip};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use vram_residency::Digest;

/// A directory to run the example in.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_os(&args.iter().map(OsStr::new).collect::<Vec<_>>())
    }

    fn run_os(&self, args: &[&OsStr]) -> Output {
        // It never waits for anything; one that does must not hang the test.
        Command::new("timeout")
            .arg("120")
            .arg(example("worker"))
            .args(args)
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// What is printed by a run that ends well.
    #[track_caller]
    fn story(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is said by a run that ends with this status.
    #[track_caller]
    fn complaint(&self, status: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs the commands that were printed; what each says.
    fn obey(&self, story: &str) -> Vec<String> {
        let commands = story
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .filter(|line| {
                ["fsverity ", "openssl ", "tail "].map(|tool| line.starts_with(tool)) != [false; 3]
            });
        commands
            .map(|command| {
                let output = Command::new("sh")
                    .args(["-c", command])
                    .current_dir(self.0.path())
                    .output()
                    .unwrap();
                assert!(output.status.success(), "{command}: {output:?}");
                String::from_utf8(output.stdout).unwrap()
            })
            .collect()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn has_tools() -> bool {
    ["fsverity", "openssl"].into_iter().all(|tool| {
        let installed = Command::new(tool).arg("version").output().is_ok();
        if !installed {
            skip(&format!("`{tool}` is not installed"));
        }
        installed
    })
}

/// A safetensors file with one tensor of so many bytes.
fn safetensors(len: usize) -> Vec<u8> {
    let header = format!(r#"{{"t":{{"dtype":"U8","shape":[{len}],"data_offsets":[0,{len}]}}}}"#);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend((0..len).map(|i| (i % 251) as u8));
    file
}

/// The digests that the story names, in order.
fn digests(story: &str) -> Vec<&str> {
    let lines = story.lines().filter_map(|l| l.strip_prefix("digest: "));
    lines.map(|line| line.split(' ').nth(1).unwrap()).collect()
}

#[test]
fn it_runs_twice_on_one_trail_and_its_commands_confirm_what_it_says() {
    let desk = Desk::new();
    desk.put("m.safetensors", &safetensors(700_000));
    let args = ["m.safetensors", "--trail", "t"];
    for run in 1..=2 {
        let story = desk.story(&args);
        assert!(story.contains("INCIDENT      digest_mismatch"), "{story}");
        assert!(story.contains("\nverifier key: vram-residency/worker-1/"));
        assert!(story.contains("\nanchor: t.evidence/anchor.txt\n"));
        assert!(story.contains("\ntrail: t\n"));
        let opened = of_event(&records(&desk.path("t")), "TrailOpened");
        assert_eq!(opened.len(), run);
        if has_tools() {
            let said = desk.obey(&story);
            assert_eq!(said.len(), 2);
            assert!(said[0].starts_with(digests(&story)[0]), "{said:?}");
        }
    }
    let story = desk.story(&["m.safetensors", "--trail", "t", "--keep-clean"]);
    assert!(!story.contains("INCIDENT"), "{story}");
}

#[test]
fn what_vouches_for_a_trail_is_beside_it_however_it_is_written() {
    for trail in ["t/", "t//", "./t/.", "t"] {
        let desk = Desk::new();
        desk.put("m", b"model");
        desk.story(&["m", "--trail", trail]);
        assert_eq!(
            desk.names(),
            ["m", "t", "t.evidence", "t.key.pem"],
            "{trail}"
        );
        assert!(desk.path("t.evidence/anchor.txt").exists());
        let foreign: Vec<_> = fs::read_dir(desk.path("t"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".jsonl") && !name.contains("lock"))
            .collect();
        assert!(foreign.is_empty(), "{trail}: {foreign:?}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_status_2_and_leaves_nothing() {
    let desk = Desk::new();
    desk.put("m", b"model");
    let digits = "0".repeat(64);
    let expect = format!("fsverity:{digits}");
    for (args, text) in [
        (&["--trail", "."][..], "give the name of a directory"),
        (&["--trail", ".."], "give the name of a directory"),
        (&["--trail", "/"], "give the name of a directory"),
        (&["--trail", ""], "--trail <DIR>"),
        (&["--trail"], "a value is required for '--trail <DIR>'"),
        (&["m", "--frobnicate"], "unexpected argument '--frobnicate'"),
        (&["m", "m"], "unexpected argument 'm'"),
        (&["m", "--shards", "0"], "1..=1024"),
        (&["m", "--expect", "md5:00"], "give fsverity:HEX"),
        (
            &["m", "--shards", "2", "--expect", &expect],
            "--expect is for one shard",
        ),
    ] {
        let said = desk.complaint(2, args);
        assert!(said.contains(text) && said.contains("--help"), "{said}");
    }
    let odd = OsStr::from_bytes(b"--\xff");
    let output = desk.run_os(&[odd]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(desk.names(), ["m"]);
}

#[test]
fn the_right_digest_of_the_other_kind_is_recognised() {
    let desk = Desk::new();
    let bytes = safetensors(10_000);
    desk.put("m.safetensors", &bytes);
    let plain = hex::encode(Sha256::digest(&bytes));
    let tree = Digest::of_reader(&bytes[..]).unwrap();
    let run = |expect: &str| ["m.safetensors", "--expect", expect].map(str::to_owned);
    for (expect, advice) in [
        (
            format!("fsverity:{plain}"),
            Some("say --expect sha256sum:HEX"),
        ),
        (
            format!("sha256sum:{tree}"),
            Some("say --expect fsverity:HEX"),
        ),
        (format!("sha256sum:{}", "0".repeat(64)), None),
    ] {
        let args = run(&expect);
        let said = desk.complaint(1, &args.each_ref().map(String::as_str));
        assert!(said.contains("provenance_mismatch"), "{said}");
        match advice {
            Some(advice) => assert!(said.contains(advice), "{said}"),
            None => assert!(!said.contains("advice"), "{said}"),
        }
    }
    for expect in [format!("sha256sum:{plain}"), format!("fsverity:{tree}")] {
        let args = run(&expect);
        desk.story(&args.each_ref().map(String::as_str));
    }
    let trail = records(&desk.path("worker-trail"));
    let failed = of_event(&trail, "SealVerificationFailed");
    let refused = failed
        .iter()
        .filter(|record| record["reason"] == "provenance_mismatch");
    assert_eq!(refused.count(), 3);
}

#[test]
fn a_file_that_is_no_model_ends_with_status_1_and_says_why() {
    let desk = Desk::new();
    let whole = safetensors(10_000);
    desk.put("empty", b"");
    desk.put("cut.safetensors", &whole[..9_000]);
    desk.put("cut-in-header.safetensors", &whole[..30]);
    desk.put("cut-in-length.safetensors", &whole[..5]);
    desk.put("longer.safetensors", &[&whole[..], b"x"].concat());
    fs::create_dir(desk.path("dir")).unwrap();
    let pipe = Command::new("mkfifo").arg(desk.path("pipe")).status();
    assert!(pipe.unwrap().success());
    for (model, text) in [
        ("missing", "missing: No such file"),
        ("empty", "empty: the file is empty"),
        ("dir", "dir: not a regular file"),
        ("pipe", "pipe: not a regular file"),
        ("cut.safetensors", "it is truncated"),
        ("cut-in-header.safetensors", "it is truncated"),
        ("cut-in-length.safetensors", "it is truncated"),
        ("longer.safetensors", "longer than its tensors"),
    ] {
        let said = desk.complaint(1, &[model]);
        assert!(said.contains(text), "{model}: {said}");
    }
    assert!(!desk.path("worker-trail").exists(), "nothing was begun");
}

#[test]
fn a_model_is_cut_into_as_many_shards_as_it_has_bytes_and_no_more() {
    let desk = Desk::new();
    desk.put("m", b"12345");
    for shards in 1..=5 {
        let number = shards.to_string();
        let story = desk.story(&["m", "--shards", &number]);
        assert_eq!(digests(&story).len(), shards);
        if has_tools() {
            let said = desk.obey(&story);
            assert_eq!(said.len(), shards + 1);
            for (said, digest) in said.iter().zip(digests(&story)) {
                assert!(said.starts_with(digest), "{said}");
            }
        }
        let trail = records(&desk.path("worker-trail"));
        let sealed = of_event(&trail, "VramSealed");
        let lens: Vec<u64> = sealed[sealed.len() - shards..]
            .iter()
            .map(|record| record["bytes"].as_u64().unwrap())
            .collect();
        assert_eq!(lens.iter().sum::<u64>(), 5);
        assert!(lens.iter().max().unwrap() - lens.iter().min().unwrap() <= 1);
    }
    let said = desk.complaint(1, &["m", "--shards", "6"]);
    assert!(said.contains("5 bytes do not fill 6 shards"), "{said}");
}

/// A reader copies the printed commands into a shell.
#[test]
fn commands_work_whatever_the_paths_are() {
    let desk = Desk::new();
    let model = "it's a \"model\" $(touch gone).bin";
    desk.put(model, b"model");
    for shards in ["1", "2"] {
        let story = desk.story(&[model, "--trail", "-my trail's", "--shards", shards]);
        assert!(!desk.path("gone").exists());
        if has_tools() {
            desk.obey(&story);
        }
        assert!(!desk.path("gone").exists());
    }
    // Not text at all.
    let odd = OsStr::from_bytes(b"\xff\xfe");
    fs::write(desk.0.path().join(odd), b"model").unwrap();
    let output = desk.run_os(&[odd]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let command = [&b"fsverity digest '"[..], odd.as_bytes(), b"'"].concat();
    let printed = output.stdout.windows(command.len());
    assert!(printed.into_iter().any(|bytes| bytes == command));
}

#[test]
fn without_the_feature_or_a_driver_a_gpu_is_refused_with_advice() {
    let desk = Desk::new();
    let said = desk.complaint(1, &["--device", "cuda:9999"]);
    let advice = [
        "needs the feature `cuda`",
        "install NVIDIA's driver",
        "there is no GPU 9999",
    ];
    assert!(advice.iter().any(|advice| said.contains(advice)), "{said}");
    let said = desk.complaint(2, &["--device", "gpu"]);
    assert!(said.contains("give host, or cuda:"), "{said}");
}

/// The story is the same; the driver is a simulated one, found as the real one would be.
#[cfg(feature = "cuda")]
#[test]
fn in_a_gpu_the_story_is_the_same() {
    let desk = Desk::new();
    let driver = std::env::current_exe()
        .unwrap()
        .with_file_name("libsimulated_cuda.so");
    for name in ["libcuda.so", "libcuda.so.1"] {
        fs::copy(&driver, desk.path(name)).unwrap();
    }
    let model = safetensors(1_300_000);
    desk.put("small.safetensors", &model);
    let output = Command::new("timeout")
        .arg("120")
        .arg(example("worker"))
        .args(["small.safetensors", "--device", "cuda:0", "--shards", "3"])
        .current_dir(desk.0.path())
        .env("LD_LIBRARY_PATH", desk.0.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let story = String::from_utf8(output.stdout).unwrap();
    assert!(story.contains("device        cuda:0, GPU-"), "{story}");
    assert!(story.contains("INCIDENT      digest_mismatch"), "{story}");
    let records = records(&desk.path("worker-trail"));
    assert_eq!(of_event(&records, "DeviceOpened").len(), 1);
    assert_eq!(of_event(&records, "VramSealed").len(), 3);
    let failed = &of_event(&records, "SealVerificationFailed")[0];
    assert_eq!(failed["device"], "cuda:0");
    let whole = Digest::of_reader(&model[..]).unwrap().to_string();
    assert!(
        !story.contains(&whole),
        "each shard has a digest of its own"
    );
}
