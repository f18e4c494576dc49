#!/usr/bin/env python3
"""Time one training step in PyTorch + PEFT, beside deltaw's `train-step`.

The step is what a user would write: forward with the loss, backward, `torch.optim.AdamW.step()`,
`zero_grad(set_to_none=True)`; for AdaLoRA also PEFT's `update_and_allocate`. float32, dropout 0, random
weights, fixed random inputs, one batch in memory.

Models (Hugging Face transformers, built from a config, `attn_implementation="sdpa"`, head width 64,
MLP 4x, vocabulary 2048):

  gpt   GPT-2's block with separate q, k, v projections, so that each gets its own adapter: `OPTForCausalLM`
        with GELU(tanh). `--gpt-arch gpt2` takes `GPT2LMHeadModel` instead, whose fused `c_attn` gets ONE
        adapter for q, k and v (less work). Causal LM loss over all tokens, head tied to the token
        embedding unless `--untied`.
  bert  `BertForSequenceClassification`, 2 labels, no padding, no attention mask.
  vit   `ViTForImageClassification` on 3x32x32 images, patch 4: 64 patches + [CLS] = 65 tokens whatever
        `--seq` says; 10 labels.

Methods:

  full     every parameter trains.
  lora     r = 8, alpha = 16 on every linear of the blocks (`--rank`); the classifier trains too, the LM head not.
  adalora  PEFT's AdaLoRA, initial rank 1.5 r, target rank r, orthogonality weight 0.1, timed inside the phase
           in which the budget falls: importances are updated every step, the mask every 10th.
  randlora, miss, bone
           PEFT's RandLoRA (alpha = 20 r), MiSS, and MiSS with `init_weights="bat"`, at `--rank`.

`--device cuda` times both on the first GPU.

Running it needs `pip install torch peft transformers`; this project itself needs none of them.

  python3 pytorch_peft.py --model gpt --method lora               one JSON line
  python3 pytorch_peft.py --model gpt --method lora --compile     the same through torch.compile
  ... | python3 pytorch_peft.py --against -                       times the steps named by deltaw's JSON lines
  python3 pytorch_peft.py --command "cargo run --release -p deltaw-benches --bin train-step --"
                                                                  both programs in turns, in one run
  python3 pytorch_peft.py --command "..." --model all --method all
  python3 pytorch_peft.py --command "..." --model gpt --method randlora --rank 32

JSON keys, here and as expected from the other program: `model`, `method`, `batch`, `seq`, `dim`, `layers`,
`median_ms`, `tokens_per_s`, `peak_rss_mib` (VmHWM) and `rss_before_model_mib` (VmRSS after the imports). The
ratios printed are PyTorch / deltaw for time (above 1: deltaw is faster) and deltaw / PyTorch for peak memory
above the baseline (below 1: deltaw needs less). Timings of a shared machine drift by tens of per cent, so
only the paired mode's ratios, taken in the same minutes, should be quoted.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
import warnings

MODELS = ("gpt", "bert", "vit")
METHODS = ("full", "lora", "adalora", "randlora", "miss", "bone")
UPDATES = ("lora", "randlora", "miss", "bone")
SHAPE_KEYS = ("batch", "seq", "dim", "layers")
VOCABULARY = 2048
HEAD_WIDTH = 64


def parse_arguments():
    """Command line, with the shapes of the published figures as defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=(*MODELS, "all"), default="gpt")
    parser.add_argument("--method", choices=(*METHODS, "all"), default="lora")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="timed steps; the median counts")
    parser.add_argument("--warmup", type=int, default=5, help="steps before the clock starts")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="both programs' device")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--fused", action="store_true", help="AdamW(fused=True)")
    parser.add_argument("--gpt-arch", choices=("opt", "gpt2"), default="opt")
    parser.add_argument("--untied", action="store_true", help="gpt: a head of its own")
    parser.add_argument("--against", metavar="FILE", help="deltaw's JSON lines; - reads stdin")
    parser.add_argument("--command", help="deltaw's train-step command, run in turns with this one")
    parser.add_argument("--rounds", type=int, default=3, help="with --command: turns of each program")
    arguments = parser.parse_args()
    if arguments.dim % HEAD_WIDTH:
        parser.error(f"--dim {arguments.dim}: must be a multiple of the head width {HEAD_WIDTH}")
    for name in ("batch", "seq", "layers", "rank", "threads", "steps", "rounds"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if arguments.warmup < 0:
        parser.error("--warmup must not be negative")
    if arguments.against and arguments.command:
        parser.error("--against and --command exclude each other")
    if "all" in (arguments.model, arguments.method) and not arguments.command:
        parser.error("'all' is for --command; a single timing takes one model and one method")
    return arguments


def resident_mib(field):
    """`VmRSS` (now) or `VmHWM` (peak) of this process, in MiB."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def build_model(arguments):
    """The base model, the names of its blocks' linears, of the layers that train beside the adapters, and a batch."""
    import torch
    import transformers as hf

    dim, heads = arguments.dim, arguments.dim // HEAD_WIDTH
    batch, seq = arguments.batch, arguments.seq
    tokens = torch.randint(0, VOCABULARY, (batch, seq))
    if arguments.model == "gpt" and arguments.gpt_arch == "gpt2":
        config = hf.GPT2Config(
            vocab_size=VOCABULARY, n_positions=seq, n_embd=dim, n_layer=arguments.layers, n_head=heads,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, attn_implementation="sdpa",
            tie_word_embeddings=not arguments.untied, bos_token_id=0, eos_token_id=0,
        )
        targets = ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]
        return hf.GPT2LMHeadModel(config), targets, None, {"input_ids": tokens, "labels": tokens}
    if arguments.model == "gpt":
        config = hf.OPTConfig(
            vocab_size=VOCABULARY, max_position_embeddings=seq, hidden_size=dim, word_embed_proj_dim=dim,
            ffn_dim=4 * dim, num_hidden_layers=arguments.layers, num_attention_heads=heads,
            activation_function="gelu_new", dropout=0.0, attention_dropout=0.0, layerdrop=0.0, use_cache=False,
            attn_implementation="sdpa", tie_word_embeddings=not arguments.untied, pad_token_id=None,
            bos_token_id=0, eos_token_id=0,
        )
        targets = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
        return hf.OPTForCausalLM(config), targets, None, {"input_ids": tokens, "labels": tokens}
    encoder = dict(
        hidden_size=dim, num_hidden_layers=arguments.layers, num_attention_heads=heads,
        intermediate_size=4 * dim, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    if arguments.model == "bert":
        config = hf.BertConfig(
            vocab_size=VOCABULARY, max_position_embeddings=seq, num_labels=2, use_cache=False, **encoder
        )
        inputs = {"input_ids": tokens, "labels": torch.randint(0, 2, (batch,))}
        model = hf.BertForSequenceClassification(config)
    else:
        config = hf.ViTConfig(image_size=32, patch_size=4, num_channels=3, num_labels=10, **encoder)
        inputs = {"pixel_values": torch.randn(batch, 3, 32, 32), "labels": torch.randint(0, 10, (batch,))}
        model = hf.ViTForImageClassification(config)
    targets = sorted(
        name for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and (".layer." in name or ".layers." in name)
    )
    return model, targets, ["classifier"], inputs


def adapter_config(method, rank, **shared):
    """PEFT's configuration of one of `UPDATES`."""
    import peft

    if method == "lora":
        return peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, **shared)
    if method == "randlora":
        return peft.RandLoraConfig(r=rank, randlora_alpha=20 * rank, randlora_dropout=0.0, **shared)
    return peft.MissConfig(r=rank, init_weights="bat" if method == "bone" else True, **shared)


def attach_adapters(model, targets, trained_layers, arguments):
    """The PEFT model of `--method`; checks that every linear of the blocks got its adapter."""
    import peft

    shared = dict(target_modules=targets, modules_to_save=trained_layers)
    if arguments.method in UPDATES:
        config = adapter_config(arguments.method, arguments.rank, **shared)
    else:
        config = peft.AdaLoraConfig(
            lora_alpha=2 * arguments.rank, lora_dropout=0.0,
            init_r=round(1.5 * arguments.rank), target_r=arguments.rank, tinit=1, tfinal=10, deltaT=10,
            total_step=1000 * (arguments.warmup + arguments.steps), orth_reg_weight=0.1, **shared,
        )
    model = peft.get_peft_model(model, config)
    own = {"lora_A", "randlora_lambda", "miss_block"}
    adapted = sum(name.rsplit(".", 1)[-1] in own for name, _ in model.named_modules())
    per_block = 4 if arguments.model == "gpt" and arguments.gpt_arch == "gpt2" else 6
    if adapted != per_block * arguments.layers:
        raise RuntimeError(f"{adapted} adapted linears, wanted {per_block * arguments.layers}: {targets}")
    return model


def time_step(arguments):
    """Build, warm up and time; returns what is printed as JSON."""
    import torch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    import peft
    import transformers

    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    rss_before_model = resident_mib("VmRSS")
    model, targets, trained_layers, inputs = build_model(arguments)
    architecture = type(model).__name__
    if arguments.method != "full":
        model = attach_adapters(model, targets, trained_layers, arguments)
    model.to(arguments.device).train()
    inputs = {key: value.to(arguments.device) for key, value in inputs.items()}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, fused=arguments.fused or None)
    forward = torch.compile(model) if arguments.compile else model
    allocator = model.base_model if arguments.method == "adalora" else None

    milliseconds = []
    for step in range(1, arguments.warmup + arguments.steps + 1):
        start = time.perf_counter()
        loss = forward(**inputs).loss
        loss.backward()
        optimiser.step()
        if allocator is not None:
            allocator.update_and_allocate(step)
        optimiser.zero_grad(set_to_none=True)
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        elapsed = 1000 * (time.perf_counter() - start)
        if step > arguments.warmup:
            milliseconds.append(elapsed)
    if not torch.isfinite(loss):
        raise RuntimeError(f"the loss is {loss.item()}")

    median = statistics.median(milliseconds)
    tokens = arguments.batch * (65 if arguments.model == "vit" else arguments.seq)
    return {
        "program": "pytorch+peft", "model": arguments.model, "method": arguments.method,
        "batch": arguments.batch, "seq": arguments.seq, "dim": arguments.dim, "layers": arguments.layers,
        "rank": arguments.rank, "threads": arguments.threads, "compile": arguments.compile,
        "fused_adamw": arguments.fused, "architecture": architecture,
        "tied_head": (not arguments.untied) if arguments.model == "gpt" else None,
        "trainable_parameters": sum(parameter.numel() for parameter in parameters),
        "median_ms": round(median, 3), "fastest_ms": round(min(milliseconds), 3),
        "tokens_per_s": round(1000 * tokens / median, 1), "tokens": tokens,
        "device": arguments.device,
        "peak_device_mib": round(torch.cuda.max_memory_allocated() / 2**20, 1) if arguments.device == "cuda" else None,
        "peak_rss_mib": round(resident_mib("VmHWM"), 1), "rss_before_model_mib": round(rss_before_model, 1),
        "torch": torch.__version__, "peft": peft.__version__, "transformers": transformers.__version__,
    }


def own_command(arguments, model, method, shape):
    """This script's command line for one timing, run in a process of its own so that the peak RSS is its own."""
    command = [sys.executable, os.path.abspath(__file__), "--model", model, "--method", method]
    for key in SHAPE_KEYS:
        command += [f"--{key}", str(shape[key])]
    for key in ("rank", "threads", "steps", "warmup", "device"):
        command += [f"--{key}", str(getattr(arguments, key))]
    command += ["--gpt-arch", arguments.gpt_arch]
    command += [f"--{key}" for key in ("compile", "fused", "untied") if getattr(arguments, key)]
    return command


def run_json(command):
    """Run `command`; the last line of its output that is a JSON object."""
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"pytorch_peft: `{shlex.join(command)}` ended with status {finished.returncode}")
    records = parse_records(finished.stdout.splitlines(), shlex.join(command))
    return records[-1]


def parse_records(lines, origin):
    """The JSON objects among `lines`, each checked for the keys that a comparison reads."""
    records = []
    for line in lines:
        if not line.lstrip().startswith("{"):
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise SystemExit(f"pytorch_peft: a line of {origin} is not JSON ({error}): {line[:120]}") from error
        wanted = ("model", "method", *SHAPE_KEYS, "median_ms", "peak_rss_mib", "rss_before_model_mib")
        missing = [key for key in wanted if key not in record]
        if missing:
            raise SystemExit(f"pytorch_peft: a record of {origin} lacks {', '.join(missing)}")
        records.append(record)
    if not records:
        raise SystemExit(f"pytorch_peft: no JSON line in {origin}")
    return records


def memory_above_baseline(record):
    """Peak memory of tensors on a GPU; else peak resident memory less what the process held before the model was built; MiB."""
    if record.get("peak_device_mib"):
        return record["peak_device_mib"]
    return record["peak_rss_mib"] - record["rss_before_model_mib"]


def print_comparison(pairs):
    """One line per case: medians over the pairs, and the median of the pairs' ratios."""
    peer, ours = pairs[0]
    ratios = sorted(peer["median_ms"] / ours["median_ms"] for peer, ours in pairs)
    summary = {
        **{key: ours[key] for key in ("model", "method", *SHAPE_KEYS)},
        "pairs": len(pairs), "compile": peer["compile"],
        "pytorch_ms": round(statistics.median(peer["median_ms"] for peer, _ in pairs), 2),
        "deltaw_ms": round(statistics.median(ours["median_ms"] for _, ours in pairs), 2),
        "speedup": round(statistics.median(ratios), 3),
        "speedup_range": [round(ratios[0], 3), round(ratios[-1], 3)],
        "pytorch_peak_above_baseline_mib": round(statistics.median(memory_above_baseline(p) for p, _ in pairs), 1),
        "deltaw_peak_above_baseline_mib": round(statistics.median(memory_above_baseline(o) for _, o in pairs), 1),
    }
    summary["memory_ratio"] = round(
        summary["deltaw_peak_above_baseline_mib"] / summary["pytorch_peak_above_baseline_mib"], 3
    )
    print(json.dumps(summary), flush=True)


def compare_against(arguments):
    """`--against`: time every step that deltaw's JSON lines name, once."""
    if arguments.against == "-":
        records = parse_records(sys.stdin, "the standard input")
    else:
        try:
            with open(arguments.against, encoding="utf-8") as lines:
                records = parse_records(lines, arguments.against)
        except OSError as error:
            raise SystemExit(f"pytorch_peft: cannot read {arguments.against}: {error.strerror}") from error
    for ours in records:
        print_comparison([(run_json(own_command(arguments, ours["model"], ours["method"], ours)), ours)])


def compare_paired(arguments):
    """`--command`: both programs in turns, so that each pair shares the machine's mood."""
    models = MODELS if arguments.model == "all" else (arguments.model,)
    methods = METHODS if arguments.method == "all" else (arguments.method,)
    shape = {key: getattr(arguments, key) for key in SHAPE_KEYS}
    for model in models:
        for method in methods:
            theirs = own_command(arguments, model, method, shape)
            ours = shlex.split(arguments.command) + ["--model", model, "--method", method]
            ours += ["--device", arguments.device, "--rank", str(arguments.rank)]
            for key in SHAPE_KEYS:
                ours += [f"--{key}", str(shape[key])]
            print_comparison([(run_json(theirs), run_json(ours)) for _ in range(arguments.rounds)])


def main():
    """Dispatch on the three modes."""
    arguments = parse_arguments()
    if arguments.command:
        compare_paired(arguments)
    elif arguments.against:
        compare_against(arguments)
    else:
        print(json.dumps(time_step(arguments)))


if __name__ == "__main__":
    main()
