//! The table that comes out.

use std::fs;
use std::io::{self, Write as _};
use std::thread;

use jiff::Timestamp;

use crate::common::disk;

/// Says where and when, and begins the table.
pub(crate) fn begin() {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let memory = find("/proc/meminfo", "MemTotal:").unwrap_or_default();
    let processor = find("/proc/cpuinfo", "model name").unwrap_or_default();
    let now = Timestamp::now().strftime("%Y-%m-%d").to_string();
    println!("{now}, {cores} cores, {processor}, {memory} of memory");
    disk::print_fdatasync();
    println!();
    println!("| | figure | ours | limit | ours / limit | to reach |");
    println!("|---|---|---|---|---|---|");
}

/// The rest of the first line of a file that begins with `name`.
fn find(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let rest = rest.trim_start_matches([' ', '\t', ':']);
    Some(rest.trim().to_owned())
}

/// A row: what was measured in `unit`, beside its limit.
pub(crate) fn row(name: &str, figure: &str, [ours, limit]: [f64; 2], unit: &str, reach: &str) {
    let (first, second, ratio) = (short(ours), short(limit), ours / limit);
    println!("| {name} | {figure} | {first} {unit} | {second} {unit} | {ratio:.2} | {reach} |");
    // Some rows take minutes.
    let _ = io::stdout().flush();
}

/// Three digits, or all of those before the point.
fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A number with commas.
pub(crate) fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
