#!/usr/bin/env python3
"""Time one linear with an update, forward and backward, in PyTorch, in turns with deltaw's `update-step`.

float32 on the CPU, a frozen weight and bias, gradients of the input and of the update's parameters, at the layer sizes of
ViT-B and GPT-2 small over 256 and 2,048 tokens. The update is PEFT's where PEFT has it:

  lora          `LoraConfig`, rank 16
  randlora      `RandLoraConfig`, rank 32
  miss, bone    `MissConfig`, rank 64, Bone being `init_weights="bat"`

and else the equations as one writes them down, ΔW made whole:

  triadaptlora  x Wᵀ + s (((x Aᵀ) Cᵀ) Bᵀ), C = L + U, rank 16
  snell         x (W + S(K))ᵀ, K a difference of `torch.cdist`s, S soft above `torch.quantile(|K|, 0.9)`, 16 numbers a row

Running it needs `pip install torch peft`; this project itself needs neither.

  python3 pytorch_updates.py --command target/release/update-step
  python3 pytorch_updates.py --command target/release/update-step --method snell bone --rounds 5

One JSON line a case: milliseconds of both, `speedup` (PyTorch / deltaw, the median of the rounds' ratios) and its range, the
most MiB that tensors took during the step in each (PyTorch's allocations by its profiler, deltaw's pool) and their ratio.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
import warnings

from pytorch_peft import UPDATES, adapter_config

RANKS = {"lora": 16, "randlora": 32, "triadaptlora": 16, "miss": 64, "bone": 64, "snell": 16}
LAYERS = ((768, 768), (3072, 768), (768, 3072), (2304, 768))
TOKENS = (256, 2048)


def parse_arguments():
    """Command line; all methods, layers and token counts by default."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--command", required=True, help="deltaw's update-step command")
    parser.add_argument("--method", nargs="+", choices=tuple(RANKS), default=tuple(RANKS))
    parser.add_argument("--layer", nargs=2, type=int, metavar=("M", "N"), help="one layer, outputs and inputs")
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS)
    parser.add_argument("--threads", type=int, default=2, help="of both programs")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program")
    parser.add_argument("--steps", type=int, default=5, help="timed steps a turn; the median counts")
    arguments = parser.parse_args()
    if min(arguments.threads, arguments.rounds, arguments.steps, *arguments.tokens, *(arguments.layer or ())) < 1:
        parser.error("sizes, threads, rounds and steps must be at least 1")
    return arguments


def build_layer(method, m, n):
    """The forward of a frozen linear of n inputs and m outputs with the update, and the parameters that it trains."""
    import peft
    import torch
    from torch.nn import functional

    rank, linear = RANKS[method], torch.nn.Linear(n, m)
    if method in UPDATES:
        config = adapter_config(method, rank, target_modules=["linear"])
        layer = peft.get_peft_model(torch.nn.ModuleDict({"linear": linear}), config).base_model.model["linear"]
        return layer, [parameter for parameter in layer.parameters() if parameter.requires_grad]
    linear.requires_grad_(False)

    def parameter(*shape):
        return torch.nn.Parameter(0.1 * torch.randn(shape))

    if method == "triadaptlora":
        a, b = parameter(rank, n), parameter(m, rank)
        lower, upper = parameter(rank, rank), parameter(rank, rank)
        trained = [a, b, lower, upper]
        return lambda x: linear(x) + 2.0 * (x @ a.T @ (lower + upper).T @ b.T), trained
    a, b = parameter(2, n, rank // 2), parameter(2, m, rank // 2)

    def snell(x):
        k = 0.1 * (torch.cdist(b[0], a[0]) - torch.cdist(b[1], a[1]))
        size = k.detach().abs()
        delta = k.sign() * (k.abs() - torch.quantile(size.flatten(), 0.9)).clamp(min=0)
        return functional.linear(x, linear.weight + delta, linear.bias)

    return snell, [a, b]


class Peer:
    """One case in PyTorch."""

    def __init__(self, method, m, n, tokens):
        import torch

        self.forward, self.trained = build_layer(method, m, n)
        self.x = torch.randn(tokens, n, requires_grad=True)
        self.dy = torch.randn(tokens, m)
        self.step()
        self.step()

    def step(self):
        """Forward and backward; gradients are let go, as an optimiser does after its step. Milliseconds."""
        start = time.perf_counter()
        self.forward(self.x).backward(self.dy)
        elapsed = 1000 * (time.perf_counter() - start)
        for tensor in (self.x, *self.trained):
            tensor.grad = None
        return elapsed

    def peak_mib(self):
        """The most that PyTorch's tensors took during a step beyond what was there before it."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            self.step()
        events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
        live = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            live += event.nbytes()
            peak = max(peak, live)
        return peak / 2**20


class Deltaw:
    """A running `update-step`."""

    def __init__(self, arguments):
        command = [*shlex.split(arguments.command), "--threads", str(arguments.threads), "--steps", str(arguments.steps)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, method, m, n, tokens):
        """Its answer to one case."""
        self.process.stdin.write(f"{method} {m} {n} {tokens} {RANKS[method]}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"pytorch_updates: update-step ended with status {self.process.wait()}")
        return json.loads(line)


def compare(deltaw, arguments, method, m, n, tokens):
    """Both programs in turns on one case."""
    peer = Peer(method, m, n, tokens)
    rounds = []
    for _ in range(arguments.rounds):
        theirs = statistics.median(peer.step() for _ in range(arguments.steps))
        rounds.append((theirs, deltaw.ask(method, m, n, tokens)))
    ratios = sorted(theirs / ours["median_ms"] for theirs, ours in rounds)
    peak, ours = peer.peak_mib(), rounds[-1][1]
    return {
        "method": method, "m": m, "n": n, "tokens": tokens, "rank": RANKS[method],
        "threads": ours["threads"], "isa": ours["isa"],
        "pytorch_ms": round(statistics.median(theirs for theirs, _ in rounds), 3),
        "deltaw_ms": round(statistics.median(ours["median_ms"] for _, ours in rounds), 3),
        "speedup": round(statistics.median(ratios), 2), "speedup_range": [round(ratios[0], 2), round(ratios[-1], 2)],
        "pytorch_peak_mib": round(peak, 1), "deltaw_peak_mib": round(ours["peak_mib"], 1),
        "memory_ratio": round(ours["peak_mib"] / peak, 3),
    }


def main():
    """All cases, one after the other."""
    arguments = parse_arguments()
    import torch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    deltaw = Deltaw(arguments)
    layers = (tuple(arguments.layer),) if arguments.layer else LAYERS
    for method in arguments.method:
        for m, n in layers:
            for tokens in arguments.tokens:
                print(json.dumps(compare(deltaw, arguments, method, m, n, tokens)), flush=True)
    deltaw.process.stdin.close()
    if deltaw.process.wait():
        sys.exit(f"pytorch_updates: update-step ended with status {deltaw.process.returncode}")


if __name__ == "__main__":
    main()
