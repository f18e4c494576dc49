"""Kernels in Triton as one finds them in the field. Each has a plain Rust reference in ../triton.rs."""

import triton
import triton.language as tl


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    tl.store(out + at, tl.load(x + at, mask=mask) + tl.load(y + at, mask=mask), mask=mask)


@triton.jit
def softmax(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    mask = at < columns
    values = tl.load(x + row * columns + at, mask=mask, other=-float("inf"))
    powers = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row * columns + at, powers / tl.sum(powers, axis=0), mask=mask)


@triton.jit
def layer_norm(x, weight, bias, out, columns, epsilon, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(x + row * columns + at, mask=at < columns, other=0.0)
    mean = tl.sum(total, axis=0) / columns
    squares = tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        centred = tl.where(at < columns, tl.load(x + row * columns + at, mask=at < columns, other=0.0) - mean, 0.0)
        squares += centred * centred
    scale = 1 / tl.sqrt(tl.sum(squares, axis=0) / columns + epsilon)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        mask = at < columns
        normal = (tl.load(x + row * columns + at, mask=mask) - mean) * scale
        tl.store(out + row * columns + at, normal * tl.load(weight + at, mask=mask) + tl.load(bias + at, mask=mask), mask=mask)


@triton.jit
def matmul(a, b, c, m, n, k, stride_a, stride_b, stride_c, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
           GROUP: tl.constexpr, SUM: tl.constexpr):
    # Programs in groups of GROUP rows of tiles, for the second-level cache's sake.
    program, width = tl.program_id(0), GROUP * tl.cdiv(n, BN)
    first = program // width * GROUP
    rows = min(tl.cdiv(m, BM) - first, GROUP)
    row, column = first + program % width % rows, program % width // rows
    i = (row * BM + tl.arange(0, BM)) % m
    j = (column * BN + tl.arange(0, BN)) % n
    t = tl.arange(0, BK)
    left, right = a + i[:, None] * stride_a + t[None, :], b + t[:, None] * stride_b + j[None, :]
    total = tl.zeros((BM, BN), SUM)
    for step in range(tl.cdiv(k, BK)):
        x = tl.load(left, mask=t[None, :] < k - step * BK, other=0)
        y = tl.load(right, mask=t[:, None] < k - step * BK, other=0)
        total = tl.dot(x, y, total, out_dtype=SUM)
        left += BK
        right += BK * stride_b
    i, j = row * BM + tl.arange(0, BM), column * BN + tl.arange(0, BN)
    tl.store(c + i[:, None] * stride_c + j[None, :], total.to(c.dtype.element_ty), mask=(i[:, None] < m) & (j[None, :] < n))


@triton.jit
def attention(q, k, v, out, length, scale, BM: tl.constexpr, BN: tl.constexpr, WIDTH: tl.constexpr, CAUSAL: tl.constexpr):
    # Flash attention (Dao 2023): one program for BM queries of one head, keys and values in blocks of BN.
    head = tl.program_id(1) * length * WIDTH
    i, d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, WIDTH)
    query = tl.load(q + head + i[:, None] * WIDTH + d[None, :], mask=i[:, None] < length, other=0.0)
    top, total, sums = tl.full([BM], -float("inf"), tl.float32), tl.zeros([BM], tl.float32), tl.zeros([BM, WIDTH], tl.float32)
    end = min(length, (tl.program_id(0) + 1) * BM) if CAUSAL else length
    for start in range(0, end, BN):
        j = start + tl.arange(0, BN)
        key = tl.load(k + head + j[None, :] * WIDTH + d[:, None], mask=j[None, :] < length, other=0.0)
        scores = tl.dot(query, key) * (scale * 1.4426950408889634)
        allowed = j[None, :] < length
        if CAUSAL:
            allowed &= j[None, :] <= i[:, None]
        scores = tl.where(allowed, scores, -float("inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        powers, shrink = tl.exp2(scores - highest[:, None]), tl.exp2(top - highest)
        value = tl.load(v + head + j[:, None] * WIDTH + d[None, :], mask=j[:, None] < length, other=0.0)
        total = total * shrink + tl.sum(powers, 1)
        sums = tl.dot(powers.to(value.dtype), value, sums * shrink[:, None])
        top = highest
    tl.store(out + head + i[:, None] * WIDTH + d[None, :], (sums / total[:, None]).to(out.dtype.element_ty), mask=i[:, None] < length)


@triton.jit
def histogram(x, bins, private, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    values = tl.load(x + at, mask=mask, other=0)
    tl.atomic_add(bins + values, 1, mask=mask, sem="relaxed")
    # Counted within the program first.
    tl.atomic_add(private + tl.arange(0, 64), tl.histogram(values, 64, mask=mask))


@triton.jit
def larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def scans(x, sums, tops, order, summary, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + at)
    tl.store(sums + at, tl.cumsum(values, 0))
    tl.store(tops + at, tl.associative_scan(values, 0, larger, reverse=True))
    tl.store(order + at, tl.sort(values))
    tl.store(summary + tl.program_id(0) * 4, tl.sum(values, 0))
    tl.store(summary + tl.program_id(0) * 4 + 1, tl.argmax(values, 0))
    tl.store(summary + tl.program_id(0) * 4 + 2, tl.min(values, 0))
    tl.store(summary + tl.program_id(0) * 4 + 3, tl.xor_sum(values, 0))


@triton.jit
def dropout(x, out, n, p, seed, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    keep = tl.rand(seed, at) > p
    tl.store(out + at, tl.where(keep, tl.load(x + at, mask=mask) / (1 - p), 0.0), mask=mask)


@triton.jit
def transpose(x, out, m, n, BLOCK: tl.constexpr):
    i, j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tile = tl.load(x + i[:, None] * n + j[None, :], mask=(i[:, None] < m) & (j[None, :] < n))
    tl.store(out + j[:, None] * m + i[None, :], tl.trans(tile), mask=(j[:, None] < n) & (i[None, :] < m))


@triton.jit
def unary(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n, other=1.0)
    mask = at < n
    tl.store(out + at, tl.exp(v), mask=mask)
    tl.store(out + n + at, tl.log(tl.abs(v)), mask=mask)
    tl.store(out + 2 * n + at, tl.sin(v), mask=mask)
    tl.store(out + 3 * n + at, tl.cos(v), mask=mask)
    tl.store(out + 4 * n + at, tl.sigmoid(v), mask=mask)
    tl.store(out + 5 * n + at, tl.erf(v), mask=mask)
    tl.store(out + 6 * n + at, tl.rsqrt(tl.abs(v)), mask=mask)
    tl.store(out + 7 * n + at, tl.floor(v), mask=mask)
    tl.store(out + 8 * n + at, v.to(tl.bfloat16).to(tl.float32), mask=mask)
    tl.store(out + 9 * n + at, v.to(tl.float16).to(tl.float32), mask=mask)
    tl.store(out + 10 * n + at, v.to(tl.int32).to(tl.float32), mask=mask)
    tl.store(out + 11 * n + at, tl.fma(v, v, v), mask=mask)
