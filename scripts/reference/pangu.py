"""Writes tests/reference/model_pangu*: a Llama with PanGu-pi's modules (arXiv 2312.17276) in plain PyTorch.

    python scripts/reference/pangu.py

needs torch and safetensors. Nothing of transformers is used, so that it is a second account of the whole block.
"""

import json
import math
import pathlib

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"
IDS = [[3, 17, 5, 60, 0, 33, 33, 8, 41, 2, 19, 63], [9, 9, 1, 50, 27, 44, 12, 6, 38, 21, 55, 4]]
VOCAB, WIDTH, DEPTH, HEADS, KV, SIZE, FFN, TERMS, INNER, EPS, THETA = 64, 16, 2, 4, 2, 6, 20, 3, 5, 1e-5, 500.0


def make():
    shapes = {"model.embed_tokens.weight": (VOCAB, WIDTH), "lm_head.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(DEPTH):
        own = {
            "input_layernorm.weight": (WIDTH,), "post_attention_layernorm.weight": (WIDTH,),
            "self_attn.q_proj": (HEADS * SIZE, WIDTH), "self_attn.k_proj": (KV * SIZE, WIDTH),
            "self_attn.v_proj": (KV * SIZE, WIDTH), "self_attn.o_proj": (WIDTH, HEADS * SIZE),
            "mlp.gate_proj.weight": (FFN, WIDTH), "mlp.up_proj.weight": (FFN, WIDTH), "mlp.down_proj.weight": (WIDTH, FFN),
            "mlp.series.scale": (TERMS, FFN), "mlp.series.bias": (TERMS, FFN),
            "shortcut.reduce.weight": (INNER, WIDTH), "shortcut.expand.weight": (WIDTH, INNER),
        }
        for name, shape in own.items():
            parts = {name: shape} if "self_attn" not in name else {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
            shapes |= {f"model.layers.{layer}.{part}": size for part, size in parts.items()}
    generator = torch.Generator().manual_seed(11)
    return {name: (0.4 * torch.randn(shape, generator=generator) + (1.0 if "norm" in name else 0.0)).requires_grad_()
            for name, shape in shapes.items()}


def norm(x, gain):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * gain


def turned(x):
    """Rotary positions; the two numbers of a pair are half a head apart. x: (B, T, heads, SIZE)."""
    half = SIZE // 2
    angle = torch.arange(x.shape[1])[:, None] * THETA ** (-2.0 * torch.arange(half) / SIZE)
    cos, sin = angle.cos()[None, :, None], angle.sin()[None, :, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def forward(w, ids):
    x = w["model.embed_tokens.weight"][ids]
    batch, length = ids.shape
    mask = torch.full((length, length), -math.inf).triu(1)
    for layer in range(DEPTH):
        get = lambda name: w[f"model.layers.{layer}.{name}"]
        linear = lambda z, name: z @ get(f"self_attn.{name}_proj.weight").T + get(f"self_attn.{name}_proj.bias")
        z = norm(x, get("input_layernorm.weight"))
        q, k, v = (linear(z, name).view(batch, length, -1, SIZE) for name in "qkv")
        q, k = turned(q), turned(k).repeat_interleave(HEADS // KV, 2)
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(SIZE) + mask).softmax(-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights, v.repeat_interleave(HEADS // KV, 2)).flatten(2)
        aside = torch.nn.functional.gelu(z @ get("shortcut.reduce.weight").T) @ get("shortcut.expand.weight").T
        x = x + linear(mixed, "o") + aside
        z = norm(x, get("post_attention_layernorm.weight"))
        gate, scale, bias = z @ get("mlp.gate_proj.weight").T, get("mlp.series.scale"), get("mlp.series.bias")
        gate = sum(scale[term] * torch.nn.functional.silu(gate + bias[term]) for term in range(TERMS))
        x = x + (gate * (z @ get("mlp.up_proj.weight").T)) @ get("mlp.down_proj.weight").T
    return norm(x, w["model.norm.weight"]) @ w["lm_head.weight"].T


def numbers(tensor):
    return [float(f"{x:.8g}") for x in tensor.detach().double().flatten().tolist()]


def main():
    weights, ids = make(), torch.tensor(IDS)
    folder = HERE / "model_pangu"
    folder.mkdir(exist_ok=True)
    save_file({name: value.detach() for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["PanguPiForCausalLM"], "model_type": "pangu_pi", "hidden_act": "silu", "vocab_size": VOCAB,
        "hidden_size": WIDTH, "intermediate_size": FFN, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
        "num_key_value_heads": KV, "head_dim": SIZE, "rms_norm_eps": EPS, "rope_theta": THETA, "attention_bias": True,
        "tie_word_embeddings": False, "max_position_embeddings": 64, "series_activations": TERMS, "shortcut_size": INNER,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    logits = forward(weights, ids[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    names = [name for name in weights if "series" in name or "shortcut" in name or "down_proj" in name]
    gradients = {name: numbers(weights[name].grad) for name in names}
    result = {"ids": IDS, "logits": numbers(forward(weights, ids)), "gradients": gradients}
    (HERE / "model_pangu.json").write_text(json.dumps(result) + "\n")


main()
