//! Modules and their functions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::architecture::SHARED_DEFAULT;
use super::border::{Host, In, Out, Outcome, Text, call};
use super::context::Context;
use super::handle::{Table, fresh};
use super::status::Status;
use crate::exec::{Kernel, Loaded};
use crate::ptx;

/// A loaded module.
pub struct Module {
    handle: usize,
    pub context: Arc<Context>,
    version: (u32, u32),
    target: u32,
    /// Nothing once the module is unloaded.
    loaded: Mutex<Option<Loaded>>,
    functions: Mutex<BTreeMap<String, usize>>,
}

/// A kernel of a module.
pub struct Function {
    pub module: Arc<Module>,
    pub kernel: Kernel,
    /// Bytes of dynamic shared memory that a launch may ask for.
    pub max_dynamic_shared: AtomicU32,
}

pub static MODULES: Table<Module> = Table::new();
pub static FUNCTIONS: Table<Function> = Table::new();

impl Module {
    fn find(handle: usize) -> Outcome<Arc<Module>> {
        MODULES
            .get(handle)
            .ok_or_else(|| Status::INVALID_HANDLE.because("no such module"))
    }

    fn load(image: &[u8]) -> Outcome<usize> {
        let context = Context::live()?;
        if image.starts_with(b"\x7fELF") {
            return Err(Status::NO_BINARY_FOR_GPU
                .because("machine code (an ELF image): this device runs PTX text only"));
        }
        if image.starts_with(&0xba55_ed50_u32.to_le_bytes()) {
            return Err(
                Status::NO_BINARY_FOR_GPU.because("a fat binary: this device runs PTX text only")
            );
        }
        let text = str::from_utf8(image)
            .map_err(|e| Status::INVALID_PTX.because(format!("PTX is ASCII text: {e}")))?;
        let invalid = |e: ptx::PtxError| Status::INVALID_PTX.because(e.to_string());
        let module = ptx::Module::parse(text).map_err(invalid)?;
        let (target, capability) = (module.target, context.device.config().capability);
        if target > capability {
            return Err(Status::INVALID_PTX.because(format!(
                "written for sm_{target}, and this device is an sm_{capability}"
            )));
        }
        let loaded = Loaded::new(&module, &context.memory).map_err(invalid)?;
        let handle = fresh();
        let functions = Mutex::default();
        let loaded = Mutex::new(Some(loaded));
        let module = Module {
            handle,
            context,
            version: module.version,
            target,
            loaded,
            functions,
        };
        MODULES.insert(handle, Arc::new(module));
        Ok(handle)
    }

    fn loaded(&self) -> MutexGuard<'_, Option<Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn function(self: &Arc<Self>, name: &str) -> Outcome<usize> {
        let mut functions = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(&handle) = functions.get(name) {
            return Ok(handle);
        }
        let missing = || Status::NOT_FOUND.because(format!("no kernel `{name}` in the module"));
        let kernel = self
            .loaded()
            .as_ref()
            .and_then(|loaded| loaded.kernel(name))
            .cloned()
            .ok_or_else(missing)?;
        let static_shared = kernel.shared_bytes();
        let handle = fresh();
        let function = Function {
            module: self.clone(),
            kernel,
            max_dynamic_shared: AtomicU32::new(SHARED_DEFAULT.saturating_sub(static_shared)),
        };
        FUNCTIONS.insert(handle, Arc::new(function));
        functions.insert(name.to_owned(), handle);
        Ok(handle)
    }
}

impl Function {
    /// The function behind a handle.
    pub fn find(handle: usize) -> Outcome<Arc<Function>> {
        FUNCTIONS
            .get(handle)
            .ok_or_else(|| Status::INVALID_HANDLE.because("no such function"))
    }

    /// Threads that a block may have.
    pub fn max_threads(&self) -> u32 {
        let limit = self.kernel.function().max_threads;
        limit.map_or(1024, |[x, y, z]| {
            x.saturating_mul(y).saturating_mul(z).min(1024)
        })
    }

    fn attribute(&self, attribute: u32) -> Outcome<u32> {
        let (major, minor) = self.module.version;
        Ok(match attribute {
            0 => self.max_threads(),
            1 => self.kernel.shared_bytes(),
            2 => 0, // constants belong to the module here
            3 => self.kernel.local_bytes(),
            4 => self.kernel.registers(),
            5 => major * 10 + minor,
            6 => self.module.target,
            7 => 0,
            8 => self.max_dynamic_shared.load(Ordering::Relaxed),
            9 => u32::MAX, // -1: no preference
            10..=15 => 0,  // clusters
            _ => {
                return Err(
                    Status::INVALID_VALUE.because(format!("no function attribute {attribute}"))
                );
            }
        })
    }
}

/// Loads and writes the logs that the options ask for.
fn load_with_options(
    module: &Out<usize>,
    image: &[u8],
    count: u32,
    options: &In<u32>,
    values: &In<Host>,
) -> Outcome {
    const INFO: (u32, u32) = (3, 4);
    const ERROR: (u32, u32) = (5, 6);
    let mut given = BTreeMap::new();
    for i in 0..count as usize {
        given.insert(options.get(i)?, values.get(i)?);
    }
    let loaded = Module::load(image);
    let log = |(buffer, size): (u32, u32), text: &str| -> Outcome {
        if let (Some(&buffer), Some(&capacity)) = (given.get(&buffer), given.get(&size)) {
            buffer.write_text(text, capacity.address())?;
        }
        Ok(())
    };
    log(
        ERROR,
        loaded.as_ref().err().map_or("", |failure| &failure.message),
    )?;
    log(INFO, "")?;
    module.set(loaded?)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoad(module: Out<usize>, path: Text) -> Status {
    call("cuModuleLoad", || {
        let path = path.text()?;
        let unread = |e: std::io::Error| Status::FILE_NOT_FOUND.because(format!("{path}: {e}"));
        module.set(Module::load(&std::fs::read(&path).map_err(unread)?)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadData(module: Out<usize>, image: Text) -> Status {
    call("cuModuleLoadData", || {
        module.set(Module::load(image.bytes()?)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadDataEx(
    module: Out<usize>,
    image: Text,
    count: u32,
    options: In<u32>,
    values: In<Host>,
) -> Status {
    call("cuModuleLoadDataEx", || {
        load_with_options(&module, image.bytes()?, count, &options, &values)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadFatBinary(module: Out<usize>, image: Text) -> Status {
    call("cuModuleLoadFatBinary", || {
        module.set(Module::load(image.bytes()?)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: usize) -> Status {
    call("cuModuleUnload", || {
        let found = Module::find(module)?;
        found.context.finish();
        MODULES.remove(module);
        for handle in found
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            FUNCTIONS.remove(*handle);
        }
        if let Some(loaded) = found.loaded().take() {
            loaded.unload(&found.context.memory);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetLoadingMode(mode: Out<u32>) -> Status {
    call("cuModuleGetLoadingMode", || mode.set(1)) // eager
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunction(function: Out<usize>, module: usize, name: Text) -> Status {
    call("cuModuleGetFunction", || {
        function.set(Module::find(module)?.function(&name.text()?)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetGlobal_v2(
    address: Out<u64>,
    bytes: Out<usize>,
    module: usize,
    name: Text,
) -> Status {
    call("cuModuleGetGlobal_v2", || {
        let name = name.text()?;
        let missing = || Status::NOT_FOUND.because(format!("no variable `{name}` in the module"));
        let (place, size) = Module::find(module)?
            .loaded()
            .as_ref()
            .and_then(|loaded| loaded.global(&name))
            .ok_or_else(missing)?;
        address.set_if_wanted(place);
        bytes.set_if_wanted(size as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: usize) -> Status {
    call("cuFuncGetAttribute", || {
        value.set(Function::find(function)?.attribute(attribute)? as i32)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: usize, attribute: u32, value: i32) -> Status {
    call("cuFuncSetAttribute", || {
        let function = Function::find(function)?;
        match attribute {
            8 => {
                let fixed = function.kernel.shared_bytes();
                let most = function
                    .module
                    .context
                    .device
                    .architecture()
                    .shared_opt_in
                    .saturating_sub(fixed);
                let bytes = u32::try_from(value)
                    .ok()
                    .filter(|&bytes| bytes <= most)
                    .ok_or_else(|| {
                        Status::INVALID_VALUE.because(format!(
                            "{value} bytes of dynamic shared memory, at most {most}"
                        ))
                    })?;
                function.max_dynamic_shared.store(bytes, Ordering::Relaxed);
                Ok(())
            }
            9 => Ok(()), // a hint
            _ => Err(Status::INVALID_VALUE
                .because(format!("function attribute {attribute} cannot be set"))),
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(function: usize, _preference: u32) -> Status {
    call("cuFuncSetCacheConfig", || {
        Function::find(function).map(drop)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetModule(module: Out<usize>, function: usize) -> Status {
    call("cuFuncGetModule", || {
        module.set(Function::find(function)?.module.handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetParamInfo(
    function: usize,
    index: usize,
    offset: Out<usize>,
    size: Out<usize>,
) -> Status {
    call("cuFuncGetParamInfo", || {
        let function = Function::find(function)?;
        let past = || Status::INVALID_VALUE.because(format!("no parameter {index}"));
        let param = function
            .kernel
            .function()
            .params
            .get(index)
            .ok_or_else(past)?;
        offset.set(param.offset as usize)?;
        size.set_if_wanted(param.size as usize);
        Ok(())
    })
}
