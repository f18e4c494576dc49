#!/usr/bin/env python3
"""Times greedy generation in Hugging Face's transformers beside deltaw's `generate`, in turns in one run.

A GPT-2 with random weights in float32, `attn_implementation="sdpa"`, its own cache, no end token: the same sizes, prompts and
number of tokens as the other program's. Prints both and the ratio transformers / deltaw (above 1: deltaw is faster).

  pip install torch transformers
  python3 transformers_generate.py --command target/release/generate --dim 512 --layers 6
"""

import argparse
import json
import shlex
import statistics
import subprocess
import time
import warnings


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", required=True, help="deltaw's program")
    for name, default in [("batch", 1), ("prompt", 64), ("new", 64), ("dim", 512), ("layers", 6), ("vocabulary", 2048),
                          ("threads", 2), ("rounds", 3)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def main():
    args = arguments()
    import torch
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    config = transformers.GPT2Config(
        vocab_size=args.vocabulary, n_embd=args.dim, n_layer=args.layers, n_head=args.dim // 64,
        n_positions=args.prompt + args.new, bos_token_id=None, eos_token_id=None, attn_implementation="sdpa")
    model = transformers.GPT2LMHeadModel(config).eval()
    rows = [[(31 * row + 17 * t) % args.vocabulary for t in range(args.prompt)] for row in range(args.batch)]
    ids = torch.tensor(rows)

    def once(new):
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new,
                                 min_new_tokens=new, eos_token_id=None, pad_token_id=0)
        assert out.shape[1] == args.prompt + new
        return 1e3 * (time.perf_counter() - start)

    sizes = [f"--{name}={getattr(args, name)}" for name in ("batch", "prompt", "new", "dim", "layers", "vocabulary", "threads")]
    command = shlex.split(args.command) + sizes + ["--rounds=1", "--cached-only"]
    ratios, lines = [], []
    once(2)
    for _ in range(args.rounds):
        theirs = once(args.new)
        ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        ratios.append(theirs / ours["cached_ms"])
        lines.append((theirs, ours["cached_ms"]))
    for theirs, ours in lines:
        print(f"transformers {theirs:8.1f} ms   deltaw {ours:8.1f} ms")
    print(f"ratio {statistics.median(ratios):.2f}  (torch {torch.__version__}, transformers {transformers.__version__})")


if __name__ == "__main__":
    main()
