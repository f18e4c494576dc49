#!/usr/bin/env python3
"""Compiles kernels.cu to PTX with NVRTC (pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt).

    generate.py [DIRECTORY]

writes to this directory or to another one. The outputs are committed, so that the tests need no NVRTC. The first line of
each PTX file is a checksum of the source, by which the test notices that it is stale.
"""

import ctypes
import pathlib
import sys
import zlib

HERE = pathlib.Path(__file__).parent
PACKAGES = next(p for p in map(pathlib.Path, sys.path) if (p / "nvidia").is_dir()) / "nvidia"
LIBRARY = next(PACKAGES.glob("**/libnvrtc.so.*"))
INCLUDE = next(PACKAGES.glob("**/cuda_fp16.h")).parent


def check(status):
    if status != 0:
        raise SystemExit(f"NVRTC status {status}")


def compile(source, architecture):
    nvrtc, program, size = ctypes.CDLL(str(LIBRARY)), ctypes.c_void_p(), ctypes.c_size_t()
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None))
    options = [f"--gpu-architecture=compute_{architecture}".encode(), f"-I{INCLUDE}".encode(), b"-default-device"]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    print(log.value.decode(), end="")
    check(status)
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    return ptx.value.decode()


source = (HERE / "kernels.cu").read_bytes()
directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
for architecture in [80, 90]:
    text = f"// {zlib.crc32(source):08x}\n{compile(source, architecture)}"
    (directory / f"kernels_sm{architecture}.ptx").write_text(text)
