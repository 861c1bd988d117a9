//! The results as a table for people and as JSON for comparing runs.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cells::{Cell, Verb};
use crate::limits::Limits;

/// The limit of the machine that bounds a cell: its name and the share of it that was reached.
fn share(limits: &Limits, cell: &Cell) -> (&'static str, f64) {
    let streams = cell.concurrency.min(limits.cores) as f64;
    match (cell.verb, cell.size < 1 << 20, cell.concurrency) {
        (Verb::Put, true, 1) => ("fdatasync x1", cell.operations_per_s() / limits.fdatasync_per_s_1),
        (Verb::Put, true, _) => ("fdatasync x16", cell.operations_per_s() / limits.fdatasync_per_s_16),
        // The ETag is an MD5, which one processor makes for one stream.
        (Verb::Put, false, _) => {
            let md5 = limits.md5_mib_per_s * streams;
            if md5 < limits.sequential_write_mib_per_s {
                ("MD5", cell.mib_per_s() / md5)
            } else {
                ("sequential write", cell.mib_per_s() / limits.sequential_write_mib_per_s)
            }
        }
        (Verb::Get, true, 1) | (Verb::List | Verb::ListFolders, ..) => {
            ("round trip x1", cell.operations_per_s() / limits.round_trips_per_s_1)
        }
        (Verb::Get | Verb::GetUnderLoad, true, _) => ("round trip x16", cell.operations_per_s() / limits.round_trips_per_s_16),
        (Verb::Get | Verb::GetUnderLoad, false, _) => ("loopback", cell.mib_per_s() / limits.loopback_mib_per_s),
    }
}

pub fn table(limits: &Limits, results: &[(String, Vec<Cell>)], peaks: &[(String, u64)]) -> String {
    let mut text = String::from("## The machine\n\n| limit | |\n|---|---|\n");
    for (name, value, unit) in figures(limits) {
        let _ = writeln!(text, "| {name} | {value:.0} {unit} |");
    }
    let rivals = &results[1..];
    text.push_str(
        "\n## Cells\n\n| cell | op/s | MiB/s | p50 ms | p99 ms | CPU ms/op | syncs/op | sent to drives B/B | on drives B/B | of limit |",
    );
    for (name, _) in rivals {
        let _ = write!(text, " {name} op/s | p50 ms | p99 ms | CPU ms/op | speed, ours / its |");
    }
    let _ = writeln!(text, "\n|{}", "---|".repeat(10 + 5 * rivals.len()));
    let optional = |value: Option<f64>| value.map_or("n/a".to_owned(), |value| format!("{value:.2}"));
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    for (index, cell) in results[0].1.iter().enumerate() {
        let (limit, reached) = share(limits, cell);
        let _ = write!(
            text,
            "| {} | {:.1} | {:.1} | {:.2} | {:.2} | {:.3} | {} | {} | {} | {:.1} % of {limit} |",
            cell.name(),
            cell.operations_per_s(),
            cell.mib_per_s(),
            ms(cell.p50),
            ms(cell.p99),
            ms(cell.cpu),
            optional(cell.syncs),
            optional(cell.written),
            optional(cell.on_disk),
            reached * 100.0
        );
        for (_, cells) in rivals {
            let its = &cells[index];
            let ratio = cell.operations_per_s() / its.operations_per_s();
            let _ = write!(
                text,
                " {:.1} | {:.2} | {:.2} | {:.3} | {ratio:.2} |",
                its.operations_per_s(),
                ms(its.p50),
                ms(its.p99),
                ms(its.cpu)
            );
        }
        text.push('\n');
    }
    text.push_str("\nResident at the most:");
    for (name, bytes) in peaks {
        let _ = write!(text, " {name} {} MiB;", bytes >> 20);
    }
    text.push_str("\nBodies are incompressible and never repeated; client and server share the processors; payloads are unsigned.\n");
    text
}

pub fn json(limits: &Limits, results: &[(String, Vec<Cell>)], peaks: &[(String, u64)], garage: Option<&str>) -> String {
    let limits_json: serde_json::Map<String, Value> =
        figures(limits).into_iter().map(|(name, value, unit)| (format!("{name} ({unit})"), json!(value))).collect();
    let servers: Vec<Value> = results
        .iter()
        .map(|(name, cells)| {
            let cells: Vec<Value> = cells.iter().map(|cell| cell_json(limits, cell)).collect();
            let peak = peaks.iter().find(|(peaked, _)| peaked == name).map(|(_, bytes)| *bytes);
            json!({ "name": name, "resident_peak_bytes": peak, "cells": cells })
        })
        .collect();
    let whole = json!({ "format": 1, "cores": limits.cores, "limits": limits_json, "garage": garage, "servers": servers });
    serde_json::to_string_pretty(&whole).expect("plain values")
}

fn cell_json(limits: &Limits, cell: &Cell) -> Value {
    let (limit, reached) = share(limits, cell);
    json!({
        "cell": cell.name(), "operations": cell.operations, "seconds": cell.seconds,
        "operations_per_s": cell.operations_per_s(), "mib_per_s": cell.mib_per_s(),
        "p50_ms": cell.p50.as_secs_f64() * 1000.0, "p99_ms": cell.p99.as_secs_f64() * 1000.0,
        "cpu_ms_per_operation": cell.cpu.as_secs_f64() * 1000.0, "syncs_per_operation": cell.syncs,
        "sent_to_drives_per_byte": cell.written, "on_drives_per_byte": cell.on_disk,
        "limit": limit, "share_of_limit": reached,
    })
}

fn figures(limits: &Limits) -> Vec<(&'static str, f64, &'static str)> {
    vec![
        ("4 KiB append + fdatasync, 1 writer", limits.fdatasync_per_s_1, "/s"),
        ("4 KiB append + fdatasync, 16 writers", limits.fdatasync_per_s_16, "/s"),
        ("sequential write + fdatasync", limits.sequential_write_mib_per_s, "MiB/s"),
        ("memory copy", limits.memcpy_mib_per_s, "MiB/s"),
        ("MD5, one processor", limits.md5_mib_per_s, "MiB/s"),
        ("SHA-256, one processor", limits.sha256_mib_per_s, "MiB/s"),
        ("4 KiB round trip on loopback, 1 client", limits.round_trips_per_s_1, "/s"),
        ("4 KiB round trip on loopback, 16 clients", limits.round_trips_per_s_16, "/s"),
        ("loopback stream", limits.loopback_mib_per_s, "MiB/s"),
    ]
}
