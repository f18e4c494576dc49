"""Writes what the tests compare with: Triton's PTX for two small products, which the tests run, and the main loops of its
kernels for our tiles (registers, instructions, useful instructions of a tile of K, or of keys), which the table shows.

    python generate.py CUDA_BIN        # the directory of ptxas and nvdisasm; Triton 3.9, no GPU needed
"""
import collections, os, re, subprocess, sys, tempfile

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def product(a, b, c, M, N, K, lda, ldb, ldc, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, B_BY_K: tl.constexpr, PRECISION: tl.constexpr):
    m, n = tl.program_id(0), tl.program_id(1)
    rows, columns, k = (m * BM + tl.arange(0, BM)) % M, (n * BN + tl.arange(0, BN)) % N, tl.arange(0, BK)
    at_a = a + rows[:, None] * lda + k[None, :]
    if B_BY_K:
        at_b = b + columns[None, :] * ldb + k[:, None]
    else:
        at_b = b + k[:, None] * ldb + columns[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    for _ in range(0, K, BK):
        acc = tl.dot(tl.load(at_a), tl.load(at_b), acc, input_precision=PRECISION)
        at_a += BK
        if B_BY_K:
            at_b += BK
        else:
            at_b += BK * ldb
    rows, columns = m * BM + tl.arange(0, BM), n * BN + tl.arange(0, BN)
    tl.store(c + rows[:, None] * ldc + columns[None, :], acc.to(c.dtype.element_ty), mask=(rows[:, None] < M) & (columns[None, :] < N))


def compile(type, by_k, tile, warps, stages):
    element = "*bf16" if type == "bf16" else "*fp32"
    signature = dict(a=element, b=element, c=element, **{x: "i32" for x in ("M", "N", "K", "lda", "ldb", "ldc")})
    constants = dict(BM=tile[0], BN=tile[1], BK=tile[2], B_BY_K=by_k, PRECISION="ieee" if type == "f32" else "tf32")
    source = ASTSource(product, signature={**signature, **{x: "constexpr" for x in constants}}, constexprs=constants,
                       attrs={(i,): [["tt.divisibility", 16]] for i in (0, 1, 2, 5, 6, 7, 8)})
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options=dict(num_warps=warps, num_stages=stages)).asm["ptx"]


@triton.jit
def attention(q, k, v, o, T, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr):
    head = tl.program_id(1) * T * D
    rows, columns, d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, D)
    x = tl.load(q + head + rows[:, None] * D + d[None, :])
    at = head + columns[:, None] * D + d[None, :]
    largest, total, acc = tl.full((BM,), -float("inf"), tl.float32), tl.zeros((BM,), tl.float32), tl.zeros((BM, D), tl.float32)
    for _ in range(0, T, BN):
        s = tl.dot(x, tl.trans(tl.load(k + at)), input_precision=PRECISION) * scale
        m = tl.maximum(largest, tl.max(s, 1))
        p, fade = tl.exp2(s - m[:, None]), tl.exp2(largest - m)
        total, largest = total * fade + tl.sum(p, 1), m
        y = tl.load(v + at)
        acc = tl.dot(p.to(y.dtype), y, acc * fade[:, None], input_precision=PRECISION)
        at += BN * D
    tl.store(o + head + rows[:, None] * D + d[None, :], acc / total[:, None])


def compile_attention(type, width, tile, warps, stages):
    element = "*bf16" if type == "bf16" else "*fp32"
    signature = dict(q=element, k=element, v=element, o="*fp32", T="i32", scale="fp32")
    constants = dict(D=width, BM=tile[0], BN=tile[1], PRECISION="ieee" if type == "f32" else "tf32")
    source = ASTSource(attention, signature={**signature, **{x: "constexpr" for x in constants}}, constexprs=constants,
                       attrs={(i,): [["tt.divisibility", 16]] for i in range(5)})
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options=dict(num_warps=warps, num_stages=stages)).asm["ptx"]


def main_loop(ptx, sm, cuda):
    with tempfile.TemporaryDirectory() as d:
        open(f"{d}/k.ptx", "w").write(ptx)
        said = subprocess.run([f"{cuda}/ptxas", "-v", f"-arch=sm_{sm}", f"{d}/k.ptx", "-o", f"{d}/k"], check=True, capture_output=True, text=True).stderr
        code = subprocess.run([f"{cuda}/nvdisasm", "-c", f"{d}/k"], check=True, capture_output=True, text=True).stdout
    labels, names, back = {}, [], []
    for line in code.splitlines():
        if m := re.match(r"\s*(\.L_\S+):", line):
            labels[m[1]] = len(names)
        elif m := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z][A-Z0-9_]*)(.*);", line):
            if m[1] == "BRA" and (to := re.search(r"\.L_\w+", m[2])) and to[0] in labels:
                back.append((labels[to[0]], len(names)))
            names.append(m[1])
    counts = [collections.Counter(names[i:j + 1]) for i, j in back]
    useful = lambda c: c["HMMA"] or c["FFMA"]
    loop = max(counts, key=lambda c: (useful(c), -sum(c.values())))
    return int(re.search(r"Used (\d+) registers", said)[1]), sum(loop.values()), useful(loop)


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    tiles = {
        "bf16": [((128, 256, 64), 8, 3), ((128, 128, 32), 4, 4), ((64, 64, 32), 4, 4)],
        "tf32": [((128, 128, 32), 4, 3), ((128, 64, 32), 4, 3), ((64, 64, 32), 4, 4)],
        "f32": [((128, 128, 16), 8, 4), ((64, 64, 16), 4, 4), ((32, 64, 16), 2, 4)],
    }
    with open("loops.txt", "w") as out:
        out.write(f"# Triton {triton.__version__}: registers, instructions and useful ones of a turn of the main loop; both operands by k\n")
        for type, shapes in tiles.items():
            for tile, warps, stages in shapes:
                ptx = compile(type, True, tile, warps, stages)
                for sm in (80, 90, 120):
                    out.write(f"{type}_nt_{'x'.join(map(str, tile))} sm_{sm} {' '.join(map(str, main_loop(ptx, sm, sys.argv[1])))}\n")
        attentions = {
            "f32": [(32, (64, 64)), (64, (64, 64)), (128, (64, 32))],
            "bf16": [(32, (64, 64)), (64, (128, 64)), (128, (64, 64))],
            "tf32": [(32, (64, 64)), (64, (64, 64)), (128, (64, 32))],
        }
        for type, shapes in attentions.items():
            for width, tile in shapes:
                ptx = compile_attention(type, width, tile, 4, 2)
                for sm in (80, 90, 120):
                    suffix = "" if type == "f32" else f"_{type}"
                    out.write(f"attention_{width}{suffix} sm_{sm} {' '.join(map(str, main_loop(ptx, sm, sys.argv[1])))}\n")
    for by_k in (True, False):
        ptx = compile("bf16", by_k, (64, 64, 32), 4, 4)
        # Not the lines that say where its source lies.
        ptx = re.sub(r"^\s*\.(file|loc).*\n", "", ptx.split(".section", 1)[0], flags=re.M)
        open(f"bf16_{'nt' if by_k else 'nn'}.ptx", "w").write(ptx)
