//! The alerts of `ops/alerts.yml`: `promtool` fires them when it must and only then, they read the
//! names that a real exporter shows, and they agree with the library about what is too much.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::support::{alone, example, key_at, of_event, records, skip};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use vram_residency::AuditTrail;
use vram_residency::audit::faults::StorageFaults;

fn ops(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ops").join(file)
}

/// What `promtool` says; nothing if it is not installed.
fn promtool(args: &[&str], file: &Path) -> Option<Output> {
    let output = Command::new("promtool").args(args).arg(file).output();
    if output.is_err() {
        skip("`promtool` is not installed (Debian package `prometheus`)");
    }
    output.ok()
}

#[track_caller]
fn passes(output: &Output) {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn alerts_fire_when_they_must_and_are_silent_otherwise() {
    for (args, file) in [
        (["check", "rules"], "alerts.yml"),
        (["test", "rules"], "alerts_test.yml"),
    ] {
        if let Some(output) = promtool(&args, &ops(file)) {
            passes(&output);
        }
    }
}

#[test]
fn each_alert_is_seen_firing_and_says_what_to_do() {
    let rules = fs::read_to_string(ops("alerts.yml")).unwrap();
    let tests = fs::read_to_string(ops("alerts_test.yml")).unwrap();
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 8);
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name}");
        for part in ["severity: ", "summary: ", "action: "] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
    }
}

/// What the rules ask, without comments and annotations.
fn asked() -> String {
    let rules = fs::read_to_string(ops("alerts.yml")).unwrap();
    let rules = rules.split("\n        expr: ").skip(1);
    let asked: Vec<&str> = rules
        .map(|rule| rule.split("\n        labels:").next().unwrap())
        .collect();
    assert!(!asked.is_empty());
    asked.join("\n")
}

/// Every name of a metric of ours in a text.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("vram_audit_"))
        .collect()
}

#[test]
fn the_rules_name_what_a_running_worker_exports_and_nothing_else() {
    let asked = asked();
    for args in [&[][..], &["--late-exporter"]] {
        let output = Command::new(example("monitoring")).args(args).output();
        let output = output.unwrap();
        passes(&output);
        let told = String::from_utf8(output.stdout).unwrap();
        let pages: Vec<&str> = told.split("\n--- ").skip(1).collect();
        assert_eq!(pages.len(), 2, "{told}");
        for page in pages {
            let series = page.lines().filter(|line| line.contains("{worker="));
            let shown: BTreeSet<&str> = series.flat_map(names).collect();
            assert_eq!(names(&asked), shown, "{args:?}: {page}");
            for name in shown {
                assert!(page.contains(&format!("# HELP {name} ")), "{page}");
            }
        }
        assert!(told.contains("\nvram_audit_verification_failures{worker=\"worker-1\"} 1\n"));
        assert!(told.contains("\nvram_audit_degraded{worker=\"worker-1\"} 1\n"));
        let hook = String::from_utf8(output.stderr).unwrap();
        assert!(hook.contains("HOOK: "), "{hook}");
    }
}

/// Of all alerts these two fire, and those for one worker.
const ONE_PERCENT_TEST: &str = r#"
rule_files: [RULES]
tests:
  - interval: 1m
    input_series:
SERIES
    promql_expr_test:
      - expr: group by (alertname, worker) (ALERTS)
        eval_time: 8m
        exp_samples:
          - { labels: '{alertname="VramAuditDegraded", worker="over"}', value: 1 }
          - { labels: '{alertname="VramAuditLosesRecords", worker="over"}', value: 1 }
"#;

/// The data are what the real exporter showed of three workers, before and after each gave its trail
/// a thousand records: 11, 10 and none were lost.
#[test]
fn the_library_and_promtool_allow_one_percent_and_no_more_on_the_same_data() {
    alone(|place| {
        let exporter = PrometheusBuilder::new().install_recorder().unwrap();
        let runs = [(989, "over"), (990, "exact"), (1000, "none")];
        let mut series = String::new();
        for (room, worker) in runs {
            let (before, after) = a_thousand_records(place, worker, room, &exporter);
            for (before, after) in before.iter().zip(after) {
                let (name, before) = before.split_once("} ").unwrap();
                let (same, after) = after.split_once("} ").unwrap();
                assert_eq!(name, same);
                let values = format!("{before}x5 {after}x5");
                writeln!(series, "    - {{ series: '{name}}}', values: {values} }}").unwrap();
            }
            let degraded = of_event(&records(&place.join(worker)), "AuditDegraded");
            assert_eq!(degraded.len(), usize::from(worker == "over"), "{worker}");
        }
        let rules = ops("alerts.yml");
        let test = ONE_PERCENT_TEST
            .replace("RULES", rules.to_str().unwrap())
            .replace("SERIES", &series);
        let file = place.join("one_percent_test.yml");
        fs::write(&file, test).unwrap();
        if let Some(output) = promtool(&["test", "rules"], &file) {
            passes(&output);
        }
    });
}

/// A worker that gives its trail a thousand records when so many have room: what the exporter shows
/// of it before and after.
fn a_thousand_records(
    place: &Path,
    worker: &str,
    room: usize,
    exporter: &PrometheusHandle,
) -> (Vec<String>, Vec<String>) {
    let disk = StorageFaults::dangerous_new();
    let trail = AuditTrail::builder(worker.parse().unwrap(), place.join(worker), key_at(place))
        .durable_within(Duration::from_millis(100))
        .queue_records(room)
        .dangerous_storage_faults(disk.clone())
        .open_or_create()
        .unwrap();
    let attempts = |count| format!("vram_audit_emit_attempts{{worker=\"{worker}\"}} {count}");
    let before = shown(exporter, &attempts(0));
    disk.hang();
    for _ in 0..1000 {
        let _lost_or_not = trail.note("one of a thousand");
    }
    disk.heal();
    let after = shown(exporter, &attempts(1000));
    trail.close().unwrap();
    (before, after)
}

/// What is shown of the worker of this line, once the line is shown.
fn shown(exporter: &PrometheusHandle, line: &str) -> Vec<String> {
    let worker = line.split('"').nth(1).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // Twice, with time for a tick in between: that of the line has published the rest as well.
        let seen = exporter.render().contains(line);
        std::thread::sleep(Duration::from_millis(200));
        let page = exporter.render();
        if seen {
            let of_worker = page
                .lines()
                .filter(|line| line.contains(&format!("\"{worker}\"")));
            let mut lines: Vec<String> = of_worker.map(str::to_owned).collect();
            lines.sort();
            return lines;
        }
        assert!(Instant::now() < deadline, "no {line} in {page}");
    }
}
