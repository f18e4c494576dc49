#!/usr/bin/env python3
"""Time one step of a diffusion transformer in PyTorch with diffusers, beside deltaw's `dit-step`.

The model is diffusers' `DiTTransformer2DModel` of 3x32x32 pictures in patches of 4, head width 64, ten classes;
its blocks each hold and compute embedders of their own, as they do for every user of diffusers. float32, random
weights, fixed random inputs, one batch in memory.

  full    a training step: noising, forward, mean squared error of the noise, backward, `torch.optim.AdamW.step()`,
          `zero_grad(set_to_none=True)`; every parameter trains
  lora    the same with PEFT's LoRA on every linear of the blocks (attention and feed-forward)
  sample  a step of `DDIMScheduler` with classifier-free guidance of 1.5: one pass of twice the batch, without gradients

Running it needs `pip install torch diffusers peft`; this project itself needs none of them.

  python3 diffusers_dit.py --method full                                   one JSON line
  python3 diffusers_dit.py --command target/release/dit-step --method all  both programs in turns, in one run

The ratios printed are those of pytorch_peft.py, whose helpers this script shares.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import time

from pytorch_peft import HEAD_WIDTH, print_comparison, resident_mib, run_json

METHODS = ("full", "lora", "sample")
SIZES = ("batch", "dim", "layers", "rank", "threads", "steps", "warmup")
SIDE, PATCH, CLASSES, GUIDANCE = 32, 4, 10, 1.5


def parse_arguments():
    """Command line, with the shapes of the published figures as defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=(*METHODS, "all"), default="full")
    for name, default in zip(SIZES, (16, 256, 4, 8, 2, 20, 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--command", help="deltaw's dit-step command, run in turns with this one")
    parser.add_argument("--rounds", type=int, default=3, help="with --command: turns of each program")
    arguments = parser.parse_args()
    if arguments.dim % HEAD_WIDTH:
        parser.error(f"--dim {arguments.dim}: must be a multiple of the head width {HEAD_WIDTH}")
    for name in ("batch", "layers", "rank", "threads", "steps", "rounds"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if arguments.warmup < 0:
        parser.error("--warmup must not be negative")
    if arguments.method == "all" and not arguments.command:
        parser.error("'all' is for --command; a single timing takes one method")
    return arguments


def build_steps(arguments, model):
    """The step to time, and the number of parameters that it trains."""
    import peft
    import torch
    from diffusers import DDIMScheduler

    batch = arguments.batch
    pictures, noise = torch.randn(2, batch, 3, SIDE, SIDE)
    classes = torch.arange(batch) % CLASSES
    scheduler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=True)
    if arguments.method == "sample":
        scheduler.set_timesteps(1)
        model.requires_grad_(False)
        forward = torch.compile(model) if arguments.compile else model
        labels = torch.cat([classes, torch.full_like(classes, CLASSES)])

        @torch.no_grad()
        def sample():
            x = torch.randn(batch, 3, SIDE, SIDE)
            t = scheduler.timesteps[0]
            answer = forward(torch.cat([x, x]), timestep=t.expand(2 * batch), class_labels=labels).sample
            given, free = answer.chunk(2)
            scheduler.step(free + GUIDANCE * (given - free), t, x)

        return sample, 0
    if arguments.method == "lora":
        targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
        config = peft.LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules=targets)
        model = peft.get_peft_model(model, config)
        adapted = sum(name.endswith("lora_A") for name, _ in model.named_modules())
        if adapted != 6 * arguments.layers:
            raise RuntimeError(f"{adapted} adapted linears, wanted {6 * arguments.layers}")
    forward = torch.compile(model) if arguments.compile else model
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4)
    steps = torch.arange(batch) * 97 % 1000

    def train():
        noised = scheduler.add_noise(pictures, noise, steps)
        predicted = forward(noised, timestep=steps, class_labels=classes).sample
        torch.nn.functional.mse_loss(predicted, noise).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return train, sum(parameter.numel() for parameter in parameters)


def time_step(arguments):
    """Build, warm up and time; returns what is printed as JSON."""
    import diffusers
    import peft  # noqa: F401  (imported before the memory is read)
    import torch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    before = resident_mib("VmRSS")
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=arguments.dim // HEAD_WIDTH, attention_head_dim=HEAD_WIDTH, in_channels=3, out_channels=3,
        num_layers=arguments.layers, sample_size=SIDE, patch_size=PATCH, num_embeds_ada_norm=CLASSES,
    )
    # Without dropping labels: which are dropped is the data's business here.
    model.eval()
    step, trained = build_steps(arguments, model)
    milliseconds = []
    for i in range(arguments.warmup + arguments.steps):
        start = time.perf_counter()
        step()
        if i >= arguments.warmup:
            milliseconds.append(1000 * (time.perf_counter() - start))
    return {
        "program": "pytorch+diffusers", "model": "dit", "method": arguments.method,
        "batch": arguments.batch, "seq": (SIDE // PATCH) ** 2, "dim": arguments.dim, "layers": arguments.layers,
        "rank": arguments.rank, "threads": arguments.threads, "compile": arguments.compile,
        "trainable_parameters": trained,
        "median_ms": round(statistics.median(milliseconds), 3), "fastest_ms": round(min(milliseconds), 3),
        "peak_rss_mib": round(resident_mib("VmHWM"), 1), "rss_before_model_mib": round(before, 1),
        "torch": torch.__version__, "diffusers": diffusers.__version__,
    }


def compare(arguments):
    """`--command`: both programs in turns, so that each pair shares the machine's mood."""
    shape = [part for name in SIZES for part in (f"--{name}", str(getattr(arguments, name)))]
    own = [sys.executable, os.path.abspath(__file__), *shape] + ["--compile"] * arguments.compile
    for method in METHODS if arguments.method == "all" else (arguments.method,):
        chosen = ["--method", method]
        ours = shlex.split(arguments.command) + shape + chosen
        print_comparison([(run_json(own + chosen), run_json(ours)) for _ in range(arguments.rounds)])


def main():
    """One timing, or both programs in turns."""
    arguments = parse_arguments()
    if arguments.command:
        compare(arguments)
    else:
        print(json.dumps(time_step(arguments)))


if __name__ == "__main__":
    main()
