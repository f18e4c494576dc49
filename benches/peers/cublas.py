#!/usr/bin/env python3
"""Time cuBLAS, through PyTorch, at the products that `doctor --device cuda` timed, and print the ratios.

  cargo run --release -p deltaw-benches --bin doctor -- --device cuda     writes doctor.json
  python3 benches/peers/cublas.py doctor.json                             on the same GPU, in the same minutes

y = x w^T with random numbers, inputs of f32, tf32 (allow_tf32), bf16 or f16; the median of nine measurements of
many launches. cuBLAS gives bf16 and f16 results in their own type, deltaw f32. A ratio is cuBLAS's time over
deltaw's: above 1 deltaw is faster. Needs `pip install torch`; this project itself does not.
"""

import json
import statistics
import sys
import time


def seconds(run, synchronize):
    """Seconds of one call, the median of nine measurements of about 3 ms each."""
    run()
    synchronize()

    def of(count):
        start = time.perf_counter()
        for _ in range(count):
            run()
        synchronize()
        return (time.perf_counter() - start) / count

    count = max(1, min(1000, int(3e-3 / of(1))))
    return statistics.median(of(count) for _ in range(9))


def main():
    """Read the report, time each product, print a line each."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        raise SystemExit(__doc__)
    try:
        with open(sys.argv[1], encoding="utf-8") as file:
            products = json.load(file)["products"]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"cublas: {sys.argv[1]} is no report of `doctor` with products: {error!r}") from error

    import torch

    if not torch.cuda.is_available():
        raise SystemExit("cublas: PyTorch sees no GPU")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    types = {"f32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    for product in products:
        *_, sizes, kind = product["name"].split()
        m, n, k = map(int, sizes.split("x"))
        torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
        x, w = (torch.randn(rows, k, device="cuda").to(types[kind]) for rows in (m, n))
        y = torch.empty(m, n, device="cuda", dtype=types[kind])
        theirs = 1e6 * seconds(lambda: torch.matmul(x, w.t(), out=y), torch.cuda.synchronize)
        ours = product["microseconds"]
        print(json.dumps({
            "name": product["name"], "cublas_us": round(theirs, 1), "deltaw_us": round(ours, 1),
            "cublas_tflop_per_s": round(1e-6 * product["flops"] / theirs, 1),
            "deltaw_tflop_per_s": round(1e-6 * product["flops"] / ours, 1),
            "speedup": round(theirs / ours, 3),
        }), flush=True)


if __name__ == "__main__":
    main()
