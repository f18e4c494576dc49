//! What the environment says, read once.
//!
//! | variable | values | default |
//! |---|---|---|
//! | `DELTAW_CHECKS` | a list of `memory`, `races`, `synchronisation`, `counters`, `all` (these four), `strict` (all, and reads of what is uninitialised), or `none` | `all` |
//! | `DELTAW_LOG` | `off`, `faults` (kernel faults and unsupported calls), `all` (every failed call), to stderr | `faults` |
//! | `DELTAW_DEVICES` | virtual devices | 1 |
//! | `DELTAW_SM` | `80`, `86`, `89`, `90`, `120`: what the devices are like | `80` |
//! | `DELTAW_MEMORY` | bytes of each device, with `K`, `M` or `G` | `8G` |
//! | `DELTAW_INSTRUCTION_LIMIT` | warp instructions after which a block counts as hung | 2³⁶ |
//! | `CUDA_LAUNCH_BLOCKING` | `1`: a launch returns when the kernel has ended | `0` |

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use super::device::DeviceConfig;
use crate::exec::Checks;

/// What is printed to stderr.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Log {
    Off,
    Faults,
    All,
}

/// The process's settings.
pub struct Settings {
    /// What a device is like unless its maker says otherwise.
    pub device: DeviceConfig,
    /// Devices there are from the start.
    pub devices: usize,
    /// A launch returns only when the kernel has ended.
    pub launch_blocking: bool,
    log: AtomicU8,
}

impl Settings {
    /// What is printed.
    pub fn log(&self) -> Log {
        match self.log.load(Ordering::Relaxed) {
            0 => Log::Off,
            1 => Log::Faults,
            _ => Log::All,
        }
    }

    /// Changes what is printed.
    pub fn set_log(&self, log: Log) {
        self.log.store(log as u8, Ordering::Relaxed);
    }
}

/// The settings. A variable with a value that is not understood is said on stderr and ignored.
pub fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| Settings {
        device: DeviceConfig {
            capability: read("DELTAW_SM", 80, |text| {
                text.parse()
                    .ok()
                    .filter(|&sm| super::architecture::find(sm).is_some())
            }),
            memory: read("DELTAW_MEMORY", 8 << 30, bytes),
            checks: read("DELTAW_CHECKS", Checks::ALL, checks),
            instruction_limit: read("DELTAW_INSTRUCTION_LIMIT", 1 << 36, |text| {
                text.parse().ok()
            }),
        },
        devices: read("DELTAW_DEVICES", 1, |text| {
            text.parse().ok().filter(|&n| n <= 1024)
        }),
        launch_blocking: read("CUDA_LAUNCH_BLOCKING", false, |text| Some(text != "0")),
        log: AtomicU8::new(read("DELTAW_LOG", Log::Faults, log) as u8),
    })
}

fn read<T>(name: &str, default: T, parse: impl Fn(&str) -> Option<T>) -> T {
    let Some(text) = std::env::var_os(name) else {
        return default;
    };
    text.to_str().and_then(parse).unwrap_or_else(|| {
        eprintln!(
            "deltaw driver: {name}={} is not understood and ignored",
            text.display()
        );
        default
    })
}

fn log(text: &str) -> Option<Log> {
    Some(match text {
        "off" => Log::Off,
        "faults" => Log::Faults,
        "all" => Log::All,
        _ => return None,
    })
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits
        .parse::<u64>()
        .ok()?
        .checked_mul(unit)
        .filter(|&b| (1 << 20..=1 << 40).contains(&b))
}

fn checks(text: &str) -> Option<Checks> {
    let mut checks = Checks::NONE;
    for word in text.split(',').filter(|_| text != "none") {
        match word {
            "all" => {
                checks = Checks {
                    strict: checks.strict,
                    ..Checks::ALL
                }
            }
            "strict" => checks = Checks::STRICT,
            "memory" => checks.memory = true,
            "races" => checks.races = true,
            "synchronisation" => checks.synchronisation = true,
            "counters" => checks.counters = true,
            _ => return None,
        }
    }
    Some(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_or_refused() {
        assert_eq!(bytes("64M"), Some(64 << 20));
        assert_eq!(bytes("2097152"), Some(2 << 20));
        assert_eq!(
            (bytes("12X"), bytes("9999999G"), bytes("1K"), bytes("")),
            (None, None, None, None)
        );
        assert_eq!(
            checks("memory,races"),
            Some(Checks {
                memory: true,
                races: true,
                ..Checks::NONE
            })
        );
        assert_eq!(checks("memory,rases"), None);
        assert_eq!(checks("none"), Some(Checks::NONE));
        assert_eq!(checks("all"), Some(Checks::ALL));
        assert_eq!(checks("strict,all"), Some(Checks::STRICT));
    }
}
