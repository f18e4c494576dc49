//! Virtual devices and the calls that ask about them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::architecture::{self, Architecture};
use super::border::{Host, Out, Outcome, Text, call};
use super::context::Context;
use super::report::Report;
use super::settings::settings;
use super::status::Status;
use crate::exec::Checks;

/// What a device is like.
#[derive(Clone, Copy, Debug)]
pub struct DeviceConfig {
    /// 80 for sm_80.
    pub capability: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// What launches check. Contexts keep a shadow of their memory only if it is checked when they are made.
    pub checks: Checks,
    /// Warp instructions after which a block counts as hung.
    pub instruction_limit: u64,
}

/// A virtual device. Each has its own primary context, so that a fault on one leaves the others alone.
pub struct Device {
    pub ordinal: i32,
    config: Mutex<DeviceConfig>,
    primary: Mutex<Primary>,
    /// What its launches did.
    pub report: Report,
}

#[derive(Default)]
struct Primary {
    context: Option<Arc<Context>>,
    retains: u32,
    flags: u32,
}

static INITIALISED: AtomicBool = AtomicBool::new(false);
static DEVICES: RwLock<Vec<Slot>> = RwLock::new(Vec::new());

struct Slot {
    device: Arc<Device>,
    /// Given back by [`Device::release`]; the next [`Device::create`] takes the place.
    vacant: bool,
}

impl Device {
    fn new(ordinal: usize, config: DeviceConfig) -> Arc<Device> {
        Arc::new(Device {
            ordinal: ordinal as i32,
            config: Mutex::new(config),
            primary: Mutex::default(),
            report: Report::default(),
        })
    }

    /// The device of that ordinal, after `cuInit`.
    pub fn get(ordinal: i32) -> Outcome<Arc<Device>> {
        if !INITIALISED.load(Ordering::Acquire) {
            return Err(Status::NOT_INITIALIZED.into());
        }
        Device::find(ordinal)
    }

    /// The device of that ordinal, `cuInit` or not.
    pub fn find(ordinal: i32) -> Outcome<Arc<Device>> {
        let devices = all();
        let slot = usize::try_from(ordinal).ok().and_then(|i| devices.get(i));
        slot.map(|slot| slot.device.clone()).ok_or_else(|| {
            Status::INVALID_DEVICE.because(format!(
                "there are {} devices, and no number {ordinal}",
                devices.len()
            ))
        })
    }

    /// Adds a device, in the place of one that was given back if there is one.
    pub fn create(config: DeviceConfig) -> Arc<Device> {
        let mut devices = all();
        let place = devices
            .iter()
            .position(|slot| slot.vacant)
            .unwrap_or(devices.len());
        let device = Device::new(place, config);
        let slot = Slot {
            device: device.clone(),
            vacant: false,
        };
        match devices.get_mut(place) {
            Some(old) => *old = slot,
            None => devices.push(slot),
        }
        device
    }

    /// Destroys its primary context and gives its ordinal back.
    pub fn release(&self) {
        self.reset();
        if let Some(slot) = all().get_mut(self.ordinal as usize) {
            slot.vacant = true;
        }
    }

    /// What it is like now.
    pub fn config(&self) -> DeviceConfig {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what the launches from now on check.
    pub fn configure(&self, change: impl FnOnce(&mut DeviceConfig)) -> Outcome {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = *config;
        change(&mut new);
        let unshadowed = |c: &Arc<Context>| !c.memory.config().shadow;
        if new.checks.memory && self.primary().context.as_ref().is_some_and(unshadowed) {
            return Err(Status::NOT_PERMITTED.because(
                "the primary context was made without memory checks and keeps no shadow: reset it first",
            ));
        }
        *config = new;
        Ok(())
    }

    /// The architecture it has.
    pub fn architecture(&self) -> &'static Architecture {
        // The constructors let only known capabilities pass.
        architecture::find(self.config().capability).expect("a known architecture")
    }

    fn primary(&self) -> MutexGuard<'_, Primary> {
        self.primary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retain(self: &Arc<Self>) -> Outcome<usize> {
        let config = self.config();
        let mut primary = self.primary();
        let context = match &primary.context {
            Some(context) => context.clone(),
            None => Context::create(self, &config, primary.flags)?,
        };
        primary.retains += 1;
        primary.context = Some(context.clone());
        Ok(context.handle)
    }

    fn release_primary(&self) -> Outcome {
        let mut primary = self.primary();
        if primary.retains == 0 {
            return Err(Status::INVALID_CONTEXT.because("the primary context is not retained"));
        }
        primary.retains -= 1;
        let last = primary.retains == 0;
        let context = primary.context.take_if(|_| last);
        drop(primary);
        context.iter().for_each(|context| context.destroy());
        Ok(())
    }

    /// Destroys the primary context; who retained it still has to release it.
    pub fn reset(&self) {
        let context = self.primary().context.take();
        context.iter().for_each(|context| context.destroy());
    }
}

fn all() -> std::sync::RwLockWriteGuard<'static, Vec<Slot>> {
    let mut devices = DEVICES.write().unwrap_or_else(PoisonError::into_inner);
    if devices.is_empty() {
        let fresh = |i| Slot {
            device: Device::new(i, settings().device),
            vacant: false,
        };
        devices.extend((0..settings().devices).map(fresh));
    }
    devices
}

fn uuid(ordinal: i32) -> [u8; 16] {
    let mut uuid = *b"deltaw emul ....";
    uuid[12..].copy_from_slice(&ordinal.to_be_bytes());
    uuid
}

fn bus_id(ordinal: i32) -> String {
    format!("{:04x}:{:02x}:00.0", ordinal >> 8, ordinal & 0xff)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: u32) -> Status {
    call("cuInit", || {
        if flags != 0 {
            return Err(Status::INVALID_VALUE.because("flags must be 0"));
        }
        INITIALISED.store(true, Ordering::Release);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: Out<i32>) -> Status {
    call("cuDriverGetVersion", || version.set(13000))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: Out<i32>) -> Status {
    call("cuDeviceGetCount", || {
        if !INITIALISED.load(Ordering::Acquire) {
            return Err(Status::NOT_INITIALIZED.into());
        }
        let devices = all().len();
        count.set(devices as i32)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: Out<i32>, ordinal: i32) -> Status {
    call("cuDeviceGet", || device.set(Device::get(ordinal)?.ordinal))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetName(name: Host, capacity: i32, device: i32) -> Status {
    call("cuDeviceGetName", || {
        let Architecture {
            like, capability, ..
        } = Device::get(device)?.architecture();
        name.write_text(
            &format!("deltaw emulated {like} (sm_{capability})"),
            capacity.max(0) as usize,
        )?;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid(target: Out<[u8; 16]>, device: i32) -> Status {
    call("cuDeviceGetUuid", || {
        target.set(uuid(Device::get(device)?.ordinal))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid_v2(target: Out<[u8; 16]>, device: i32) -> Status {
    call("cuDeviceGetUuid_v2", || {
        target.set(uuid(Device::get(device)?.ordinal))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetPCIBusId(target: Host, capacity: i32, device: i32) -> Status {
    call("cuDeviceGetPCIBusId", || {
        target.write_text(
            &bus_id(Device::get(device)?.ordinal),
            capacity.max(0) as usize,
        )?;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetByPCIBusId(device: Out<i32>, id: Text) -> Status {
    call("cuDeviceGetByPCIBusId", || {
        let id = id.text()?;
        let count = all().len() as i32;
        let found = (0..count).find(|&ordinal| bus_id(ordinal) == id.to_lowercase());
        device.set(
            found.ok_or_else(|| Status::INVALID_DEVICE.because(format!("no device at `{id}`")))?,
        )
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) -> Status {
    call("cuDeviceTotalMem_v2", || {
        bytes.set(Device::get(device)?.config().memory as usize)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(value: Out<i32>, attribute: u32, device: i32) -> Status {
    call("cuDeviceGetAttribute", || {
        let device = Device::get(device)?;
        let found = match attribute {
            33 => Some(device.ordinal as u32 & 0xff), // PCI bus
            50 => Some(device.ordinal as u32 >> 8),   // PCI domain
            _ => device.architecture().attribute(attribute),
        };
        let unknown = || Status::INVALID_VALUE.because(format!("no device attribute {attribute}"));
        value.set(found.ok_or_else(unknown)? as i32)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceComputeCapability(
    major: Out<i32>,
    minor: Out<i32>,
    device: i32,
) -> Status {
    call("cuDeviceComputeCapability", || {
        let capability = Device::get(device)?.architecture().capability as i32;
        major.set(capability / 10)?;
        minor.set(capability % 10)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) -> Status {
    call("cuDeviceCanAccessPeer", || {
        for ordinal in [device, peer] {
            Device::get(ordinal)?;
        }
        can.set(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(context: Out<usize>, device: i32) -> Status {
    call("cuDevicePrimaryCtxRetain", || {
        context.set(Device::get(device)?.retain()?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> Status {
    call("cuDevicePrimaryCtxRelease_v2", || {
        Device::get(device)?.release_primary()
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: i32) -> Status {
    call("cuDevicePrimaryCtxReset_v2", || {
        Device::get(device)?.reset();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) -> Status {
    call("cuDevicePrimaryCtxSetFlags_v2", || {
        Device::get(device)?.primary().flags = flags;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxGetState(
    device: i32,
    flags: Out<u32>,
    active: Out<i32>,
) -> Status {
    call("cuDevicePrimaryCtxGetState", || {
        let device = Device::get(device)?;
        let primary = device.primary();
        flags.set(primary.flags)?;
        active.set(i32::from(primary.context.is_some()))
    })
}

/// Adds a device like an `sm_…` with so many bytes of memory, and hands out its ordinal. 0 stands for the default.
#[unsafe(no_mangle)]
pub extern "C" fn deltaw_device_create(capability: u32, memory: u64, ordinal: Out<i32>) -> Status {
    call("deltaw_device_create", || {
        let mut config = settings().device;
        if capability != 0 {
            let unknown =
                || Status::INVALID_VALUE.because(format!("no architecture sm_{capability}"));
            config.capability = architecture::find(capability)
                .ok_or_else(unknown)?
                .capability;
        }
        if memory != 0 {
            config.memory = memory;
        }
        ordinal.set(Device::create(config).ordinal)
    })
}

/// Destroys a device's primary context and gives its ordinal back.
#[unsafe(no_mangle)]
pub extern "C" fn deltaw_device_destroy(ordinal: i32) -> Status {
    call("deltaw_device_destroy", || {
        Device::find(ordinal)?.release();
        Ok(())
    })
}

/// Says what launches on a device check from now on: 1 memory, 2 races, 4 synchronisation, 8 counters,
/// 16 strict (with memory), added up.
#[unsafe(no_mangle)]
pub extern "C" fn deltaw_checks(ordinal: i32, mask: u32) -> Status {
    call("deltaw_checks", || {
        let checks = Checks {
            memory: mask & 1 != 0,
            races: mask & 2 != 0,
            synchronisation: mask & 4 != 0,
            counters: mask & 8 != 0,
            strict: mask & 16 != 0,
        };
        Device::find(ordinal)?.configure(|config| config.checks = checks)
    })
}

/// Sets the number of warp instructions after which a block counts as hung.
#[unsafe(no_mangle)]
pub extern "C" fn deltaw_instruction_limit(ordinal: i32, limit: u64) -> Status {
    call("deltaw_instruction_limit", || {
        Device::find(ordinal)?.configure(|config| config.instruction_limit = limit)
    })
}
