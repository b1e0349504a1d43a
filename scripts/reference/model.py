"""Writes tests/reference/model_*: what PyTorch, transformers and gguf compute, for the tests of src/torch.

    python scripts/reference/model.py [FILE.gguf]

needs torch, transformers and gguf. With the donor's GGUF file, its logits are written too. The checkpoint
`model_trained` is written by the test `ten_steps_match_pytorch` itself (TLM_WRITE_REFERENCE=1); run the script after.
"""

import json
import math
import pathlib
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"
IDS = [[3, 17, 5, 60, 0, 33, 33, 8, 41, 2, 19, 63], [9, 9, 1, 50, 27, 44, 12, 6, 38, 21, 55, 4]]


def write(name, value):
    (HERE / name).write_text(json.dumps(value) + "\n")


def numbers(tensor):
    return [float(f"{x:.8g}") for x in tensor.detach().double().flatten().tolist()]


def tiny(name, **changes):
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, initializer_range=0.3, **changes)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(HERE / name)
    (HERE / name / "generation_config.json").unlink(missing_ok=True)
    return model


def logits(model, ids):
    with torch.no_grad():
        return numbers(model(torch.tensor(ids)).logits)


def rate(step, steps, warmup, peak, end):
    if step < warmup:
        return peak * (step + 1) / warmup
    part = min((step - warmup) / max(1, steps - warmup - 1), 1.0)
    return peak * (end + (1 - end) * (1 + math.cos(math.pi * part)) / 2)


def sequences():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 64, (4 * 8 + 1,), generator=generator).tolist()
    return tokens, torch.tensor([tokens[i * 8 : i * 8 + 9] for i in range(4)])


def losses(model):
    """The summed loss of each sequence."""
    rows = sequences()[1]
    with torch.no_grad():
        return [float(model(row[None, :-1], labels=row[None, 1:], shift_labels=row[None, 1:]).loss) * 8 for row in rows]


def train(model):
    """Ten steps over all sequences at once, so that the order of sequences does not matter."""
    tokens, rows = sequences()
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.0, betas=(0.9, 0.95), eps=1e-8)
    losses, norms, gradients = [], [], {}
    for step in range(10):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, 10, 2, 0.01, 0.1)
        optimiser.zero_grad()
        out = model(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(out.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        if step == 0:
            gradients = {name: numbers(p.grad) for name, p in model.named_parameters()}
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimiser.step()
        losses.append(loss.item())
    return {"tokens": tokens, "losses": losses, "norms": norms, "gradients": gradients}


MASK = 2**64 - 1


def splitmix(value):
    z = (value + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def selection(model, criterion):
    """What inheriting keeps for depth 1, width 8, one head, 12 neurons; written from the paper."""
    weights = {name: tensor.detach().double() for name, tensor in model.named_parameters()}
    power = {"l1": lambda x: x.abs(), "l2": lambda x: x * x, "random": lambda x: 0 * x}[criterion]
    layer = lambda name: power(weights[f"model.layers.0.{name}_proj.weight"])
    q, k, v, o = (layer(f"self_attn.{name}") for name in "qkvo")
    gate, up, down = (layer(f"mlp.{name}") for name in ("gate", "up", "down"))
    hidden = power(weights["model.embed_tokens.weight"]).sum(0) + power(weights["lm_head.weight"]).sum(0)
    hidden += sum(reads.sum(0) for reads in (q, k, v, gate, up)) + sum(writes.sum(1) for writes in (o, down))
    neurons = gate.sum(1) + up.sum(1) + down.sum(0)
    queries = (q.sum(1) + o.sum(0)).view(4, 4).sum(1)
    groups = (k.sum(1) + v.sum(1)).view(2, 4).sum(1) + queries.view(2, 2).sum(1)

    def best(scores, keep, salt):
        chance = lambda at: splitmix(splitmix(splitmix(0) ^ splitmix(salt)) ^ at)
        key = chance if criterion == "random" else (lambda at: -float(scores[at]))
        return sorted(sorted(range(len(scores)), key=key)[:keep])

    kv = best(groups, 1, 257)
    first = kv[0] * 2
    heads = [first + at for at in best(queries[first : first + 2], 1, 258 + kv[0])]
    return {"hidden": best(hidden, 8, 0), "neurons": [best(neurons, 12, 256)], "kv_heads": [kv], "heads": [heads]}


def quants():
    from gguf import quants
    from gguf.constants import GGMLQuantizationType as Type

    random = np.random.default_rng(5)
    cases = []
    for kind in [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q4_K, Type.Q6_K, Type.F16, Type.BF16, Type.F32,
                 Type.Q2_K, Type.Q3_K, Type.Q5_K]:
        numbers_, size = {Type.F16: (4, 8), Type.BF16: (4, 8), Type.F32: (4, 16)}.get(kind) or (
            __import__("gguf").GGML_QUANT_SIZES[kind])
        block = random.integers(0, 256, 2 * size, dtype=np.uint8)
        scale = np.array([0.37, -1.25], dtype=np.float16).view(np.uint8).reshape(2, 2)
        if kind in (Type.F16, Type.F32, Type.BF16):
            block = random.normal(size=2 * numbers_).astype(np.float16 if kind == Type.F16 else np.float32)
            block = quants.quantize(block.astype(np.float32), kind).view(np.uint8).flatten()
        else:
            block = block.reshape(2, size)
            at = {Type.Q6_K: size - 2, Type.Q3_K: size - 2, Type.Q2_K: size - 4}.get(kind, 0)
            block[:, at : at + 2] = scale
            if kind in (Type.Q4_1, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q2_K):
                block[:, at + 2 : at + 4] = scale[::-1]
            block = block.flatten()
        value = quants.dequantize(block.view(np.float32) if kind == Type.F32 else block.view(np.float16) if kind == Type.F16 else block, kind)
        cases.append({"type": int(kind), "bytes": block.tolist(), "numbers": [float(x) for x in value.flatten()]})
    write("model_quant.json", cases)


def donor(path):
    path = pathlib.Path(path)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    ids = [[504, 2365, 6354, 16438, 27003, 690, 260, 23790, 2767, 30, 198, 1, 4093, 198, 57, 5248]]
    with torch.no_grad():
        out = model(torch.tensor(ids)).logits[0]
    write("model_donor.json", {"ids": ids, "stride": 997, "logits": [numbers(row[::997]) for row in out]})


def main():
    plain = tiny("model_plain")
    biased = tiny(
        "model_biased", tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 16})
    result = {"ids": IDS, "plain": logits(plain, IDS), "biased": logits(biased, IDS)}
    if (HERE / "model_trained").exists():
        result["trained"] = logits(LlamaForCausalLM.from_pretrained(HERE / "model_trained").eval(), IDS)
    write("model_logits.json", result)
    write("model_losses.json", {"plain": losses(plain), "biased": losses(biased)})
    write("model_selection.json", {criterion: selection(plain, criterion) for criterion in ("random", "l1", "l2")})
    write("model_train.json", train(plain))
    result = train(biased)
    write("model_train_biased.json", {"losses": result["losses"], "norms": result["norms"], "gradients": result["gradients"]})
    quants()
    if len(sys.argv) > 1:
        donor(sys.argv[1])


main()
