//! The status codes of the driver API, `CUresult`, and the failures that carry them.

use std::ffi::CStr;

/// A `CUresult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub u32);

/// A status and the words that say who wanted what.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: Status,
    pub message: String,
}

impl Status {
    /// This status, explained.
    pub fn because(self, message: impl Into<String>) -> Failure {
        Failure {
            status: self,
            message: message.into(),
        }
    }

    fn entry(self) -> Option<&'static (u32, &'static CStr, &'static CStr)> {
        TABLE
            .binary_search_by_key(&self.0, |row| row.0)
            .ok()
            .map(|i| &TABLE[i])
    }

    /// `CUDA_ERROR_…`, or nothing for a number that is no status.
    pub fn name(self) -> Option<&'static CStr> {
        self.entry().map(|row| row.1)
    }

    /// What it means, in a few words.
    pub fn text(self) -> Option<&'static CStr> {
        self.entry().map(|row| row.2)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        status.because("")
    }
}

macro_rules! statuses {
    ($($code:literal $name:ident $text:literal)*) => {
        #[allow(dead_code)] // the whole table is named, whether this driver gives a code or not
        impl Status {
            $(pub const $name: Status = Status($code);)*
        }
        const TABLE: &[(u32, &CStr, &CStr)] = &[$((
            $code,
            // The one code without a prefix of its own is 0.
            match CStr::from_bytes_with_nul(if $code == 0 {
                concat!("CUDA_", stringify!($name), "\0").as_bytes()
            } else {
                concat!("CUDA_ERROR_", stringify!($name), "\0").as_bytes()
            }) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            },
            $text,
        )),*];
    };
}

statuses! {
    0 SUCCESS c"no error"
    1 INVALID_VALUE c"invalid argument"
    2 OUT_OF_MEMORY c"out of memory"
    3 NOT_INITIALIZED c"cuInit has not been called"
    4 DEINITIALIZED c"the driver is shutting down"
    5 PROFILER_DISABLED c"the profiler is disabled"
    6 PROFILER_NOT_INITIALIZED c"the profiler has not been initialised"
    7 PROFILER_ALREADY_STARTED c"the profiler already runs"
    8 PROFILER_ALREADY_STOPPED c"the profiler does not run"
    34 STUB_LIBRARY c"this is a stub library"
    36 CALL_REQUIRES_NEWER_DRIVER c"the call needs a newer driver"
    46 DEVICE_UNAVAILABLE c"the device is busy or unavailable"
    47 MULTICAST_RESOURCE_FULL c"no multicast resources are left"
    100 NO_DEVICE c"there is no CUDA device"
    101 INVALID_DEVICE c"invalid device ordinal"
    102 DEVICE_NOT_LICENSED c"the device has no licence"
    200 INVALID_IMAGE c"the kernel image is invalid"
    201 INVALID_CONTEXT c"no context is current, or it is invalid"
    202 CONTEXT_ALREADY_CURRENT c"the context is already current"
    205 MAP_FAILED c"mapping failed"
    206 UNMAP_FAILED c"unmapping failed"
    207 ARRAY_IS_MAPPED c"the array is mapped"
    208 ALREADY_MAPPED c"the resource is already mapped"
    209 NO_BINARY_FOR_GPU c"no kernel image fits the device"
    210 ALREADY_ACQUIRED c"the resource is already acquired"
    211 NOT_MAPPED c"the resource is not mapped"
    212 NOT_MAPPED_AS_ARRAY c"the resource is not mapped as an array"
    213 NOT_MAPPED_AS_POINTER c"the resource is not mapped as a pointer"
    214 ECC_UNCORRECTABLE c"uncorrectable ECC error"
    215 UNSUPPORTED_LIMIT c"the device does not support that limit"
    216 CONTEXT_ALREADY_IN_USE c"the context is in use by another thread"
    217 PEER_ACCESS_UNSUPPORTED c"peer access is not supported between these devices"
    218 INVALID_PTX c"the PTX text did not compile"
    219 INVALID_GRAPHICS_CONTEXT c"invalid graphics context"
    220 NVLINK_UNCORRECTABLE c"uncorrectable NVLink error"
    221 JIT_COMPILER_NOT_FOUND c"the PTX compiler was not found"
    222 UNSUPPORTED_PTX_VERSION c"the PTX text has a version that is not supported"
    223 JIT_COMPILATION_DISABLED c"compilation of PTX is disabled"
    224 UNSUPPORTED_EXEC_AFFINITY c"the device does not support that execution affinity"
    225 UNSUPPORTED_DEVSIDE_SYNC c"device-side synchronisation is not supported"
    226 CONTAINED c"a contained error occurred on the device"
    227 INSUFFICIENT_LOADER_VERSION c"the loader is too old for the driver"
    300 INVALID_SOURCE c"invalid kernel source"
    301 FILE_NOT_FOUND c"file not found"
    302 SHARED_OBJECT_SYMBOL_NOT_FOUND c"a symbol of a shared object was not found"
    303 SHARED_OBJECT_INIT_FAILED c"a shared object failed to initialise"
    304 OPERATING_SYSTEM c"a call to the operating system failed"
    400 INVALID_HANDLE c"invalid handle"
    401 ILLEGAL_STATE c"the object is in a state that does not allow this"
    402 LOSSY_QUERY c"the answer would lose information"
    500 NOT_FOUND c"no such symbol"
    600 NOT_READY c"the work is not finished"
    700 ILLEGAL_ADDRESS c"a kernel accessed an illegal address"
    701 LAUNCH_OUT_OF_RESOURCES c"the launch asks for too many resources"
    702 LAUNCH_TIMEOUT c"the kernel ran too long and was stopped"
    703 LAUNCH_INCOMPATIBLE_TEXTURING c"the launch uses an incompatible texturing mode"
    704 PEER_ACCESS_ALREADY_ENABLED c"peer access is already enabled"
    705 PEER_ACCESS_NOT_ENABLED c"peer access has not been enabled"
    708 PRIMARY_CONTEXT_ACTIVE c"the primary context is active"
    709 CONTEXT_IS_DESTROYED c"the context has been destroyed"
    710 ASSERT c"a device-side assertion failed"
    711 TOO_MANY_PEERS c"too many peers"
    712 HOST_MEMORY_ALREADY_REGISTERED c"the host memory is already registered"
    713 HOST_MEMORY_NOT_REGISTERED c"the host memory is not registered"
    714 HARDWARE_STACK_ERROR c"call stack error or overflow"
    715 ILLEGAL_INSTRUCTION c"a kernel met an illegal instruction"
    716 MISALIGNED_ADDRESS c"a kernel accessed a misaligned address"
    717 INVALID_ADDRESS_SPACE c"an instruction met an address of the wrong state space"
    718 INVALID_PC c"invalid program counter"
    719 LAUNCH_FAILED c"a kernel failed"
    720 COOPERATIVE_LAUNCH_TOO_LARGE c"too many blocks for a cooperative launch"
    721 TENSOR_MEMORY_LEAK c"a kernel did not free its tensor memory"
    800 NOT_PERMITTED c"the operation is not permitted"
    801 NOT_SUPPORTED c"the operation is not supported"
    802 SYSTEM_NOT_READY c"the system is not ready"
    803 SYSTEM_DRIVER_MISMATCH c"the driver's parts have different versions"
    804 COMPAT_NOT_SUPPORTED_ON_DEVICE c"forward compatibility is not supported on the device"
    805 MPS_CONNECTION_FAILED c"no connection to the MPS server"
    806 MPS_RPC_FAILURE c"a remote call of MPS failed"
    807 MPS_SERVER_NOT_READY c"the MPS server is not ready"
    808 MPS_MAX_CLIENTS_REACHED c"MPS has no place for another client"
    809 MPS_MAX_CONNECTIONS_REACHED c"MPS has no place for another connection"
    810 MPS_CLIENT_TERMINATED c"MPS ended this client"
    811 CDP_NOT_SUPPORTED c"dynamic parallelism is not supported"
    812 CDP_VERSION_MISMATCH c"dynamic parallelism of an incompatible version"
    900 STREAM_CAPTURE_UNSUPPORTED c"not permitted while a stream captures"
    901 STREAM_CAPTURE_INVALIDATED c"an earlier error ended the capture"
    902 STREAM_CAPTURE_MERGE c"the call would merge two captures"
    903 STREAM_CAPTURE_UNMATCHED c"the capture did not begin in this stream"
    904 STREAM_CAPTURE_UNJOINED c"the capture has a fork that was not joined"
    905 STREAM_CAPTURE_ISOLATION c"a dependency would cross the border of the capture"
    906 STREAM_CAPTURE_IMPLICIT c"the call would depend on the legacy stream, which is not captured"
    907 CAPTURED_EVENT c"not permitted on an event last recorded in a capture"
    908 STREAM_CAPTURE_WRONG_THREAD c"the capture was begun by another thread"
    909 TIMEOUT c"the wait timed out"
    910 GRAPH_EXEC_UPDATE_FAILURE c"the graph's topology does not allow the update"
    911 EXTERNAL_DEVICE c"an external device failed"
    912 INVALID_CLUSTER_SIZE c"the cluster size is wrong for the kernel"
    913 FUNCTION_NOT_LOADED c"the function is not loaded"
    914 INVALID_RESOURCE_TYPE c"a resource has the wrong type"
    915 INVALID_RESOURCE_CONFIGURATION c"resources are insufficient or do not fit"
    916 KEY_ROTATION c"a key rotation is under way"
    917 STREAM_DETACHED c"the stream is detached"
    918 GRAPH_RECAPTURE_FAILURE c"the graph could not be captured again"
    919 FABRIC_NOT_READY c"the fabric is not ready"
    999 UNKNOWN c"unknown error"
}
