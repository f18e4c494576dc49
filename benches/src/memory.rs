//! Resident memory of this process, as Linux counts it.

/// `VmRSS` (now) or `VmHWM` (the peak) in MiB; 0 where the system does not say.
fn field(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| {
        rest.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse::<f64>()
            .ok()
    });
    kib.unwrap_or(0.0) / 1024.0
}

/// Resident now, MiB.
pub fn resident_mib() -> f64 {
    field("VmRSS")
}

/// The most that was ever resident, MiB.
pub fn peak_mib() -> f64 {
    field("VmHWM")
}
