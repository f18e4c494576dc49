#!/usr/bin/env python3
"""Compiles kernels.py to PTX with Triton (pip install triton), which needs no GPU for that.

    generate.py [DIRECTORY]

writes to this directory or to another one. The outputs are committed, so that the tests need no Triton. The first line of
each PTX file is a checksum of kernels.py and this script, by which the test notices that it is stale; the second says
how to launch the kernel.
"""

import json
import os
import pathlib
import sys
import tempfile
import zlib

cache = tempfile.TemporaryDirectory()
os.environ |= {"TRITON_CACHE_DIR": cache.name, "TRITON_DEFAULT_FP_FUSION": "1"}

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import kernels

# Line information names files without their directories.
for module in list(sys.modules.values()):
    for value in list(vars(module).values()):
        if isinstance(value, triton.JITFunction):
            value.file_name = pathlib.Path(value.file_name).name

HERE = pathlib.Path(__file__).parent
TILES = {"BM": 64, "BN": 64, "BK": 32, "GROUP": 4, "SUM": "fp32"}
HEADS = {"BM": 64, "BN": 32, "WIDTH": 64}

# File: kernel, types of its arguments (=: a multiple of 16, as all pointers are), constants, and options that are not Triton's own.
PROGRAMS = {
    "add": ("add", "*fp32 *fp32 *fp32 i32", {"BLOCK": 1024}, {}),
    "softmax": ("softmax", "*fp32 *fp32 i32", {"BLOCK": 1024}, {}),
    "layer_norm": ("layer_norm", "*fp32 *fp32 *fp32 *fp32 i32 fp32", {"BLOCK": 256}, {}),
    "matmul_bf16_3": ("matmul", "*bf16 *bf16 *fp32 i32 =i32 =i32 =i32 =i32 =i32", TILES, {"num_stages": 3}),
    "matmul_bf16_4": ("matmul", "*bf16 *bf16 *bf16 i32 =i32 =i32 =i32 =i32 =i32", {**TILES, "BM": 128}, {"num_stages": 4, "num_warps": 8}),
    "matmul_f16": ("matmul", "*fp16 *fp16 *fp16 i32 =i32 =i32 =i32 =i32 =i32", {**TILES, "SUM": "fp16"}, {"num_stages": 3}),
    "matmul_tf32": ("matmul", "*fp32 *fp32 *fp32 i32 i32 i32 =i32 =i32 =i32", TILES, {"num_stages": 3}),
    "matmul_i8": ("matmul", "*i8 *i8 *i32 i32 =i32 =i32 =i32 =i32 =i32", {**TILES, "SUM": "int32"}, {"num_stages": 3}),
    "attention": ("attention", "*fp16 *fp16 *fp16 *fp16 i32 fp32", {**HEADS, "CAUSAL": False}, {"num_stages": 3}),
    "attention_causal": ("attention", "*bf16 *bf16 *bf16 *bf16 i32 fp32", {**HEADS, "CAUSAL": True}, {"num_stages": 2}),
    "histogram": ("histogram", "*i32 *i32 *i32 i32", {"BLOCK": 512}, {}),
    "scans": ("scans", "*i32 *i32 *i32 *i32 *i32", {"BLOCK": 256}, {}),
    "dropout": ("dropout", "*fp32 *fp32 i32 fp32 i32", {"BLOCK": 512}, {}),
    "transpose": ("transpose", "*fp32 *fp32 i32 i32", {"BLOCK": 32}, {}),
    "unary": ("unary", "*fp32 *fp32 i32", {"BLOCK": 256}, {}),
}
TYPES = {"fp16": triton.language.float16, "fp32": triton.language.float32, "int32": triton.language.int32}


def compile(kernel, types, constants, options):
    """The PTX of a kernel for sm_80, and how to launch it."""
    function = getattr(kernels, kernel)
    types = types.split()
    aligned = [i for i, ty in enumerate(types) if ty[0] in "*="]
    types = [ty.removeprefix("=") for ty in types]
    signature = dict(zip(function.arg_names, types)) | {name: "constexpr" for name in constants}
    constants = {name: TYPES.get(value, value) if isinstance(value, str) else value for name, value in constants.items()}
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(function, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    launch = {"name": compiled.metadata.name, "threads": 32 * compiled.metadata.num_warps, "shared": compiled.metadata.shared, "arguments": types}
    return compiled.asm["ptx"], launch


def main():
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    checksum = zlib.crc32((HERE / "kernels.py").read_bytes() + (HERE / "generate.py").read_bytes())
    for file, program in PROGRAMS.items():
        ptx, launch = compile(*program)
        (directory / f"{file}.ptx").write_text(f"// {checksum:08x}\n// {json.dumps(launch)}\n{ptx}")


if __name__ == "__main__":
    main()
