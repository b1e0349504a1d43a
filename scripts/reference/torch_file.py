"""Writes tests/reference/torch/: files of `torch.save`, and safetensors files of the same numbers.

    python scripts/reference/torch_file.py

needs torch, transformers and safetensors. `kinds` has all a state dict may hold; `model` is one model in each layout that
`model.open` reads; the other files are refused.
"""

import collections
import pathlib

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference" / "torch"


class Foreign:
    """What a state dict has no use for."""

    def __reduce__(self):
        return print, ("run",)


def kinds():
    torch.manual_seed(3)
    base = torch.randn(5, 4)
    half = torch.randn(2, 3, 4).half()
    state = collections.OrderedDict(
        f32=base, f16=half, bf16=torch.randn(3).bfloat16(), f64=torch.randn(2, 2).double(),
        turned=base.t(), part=base[1:4, 1::2], column=base[:, 3:], shared=base, swapped=half.permute(2, 0, 1),
        scalar=torch.tensor(1.5), none=torch.zeros(0, 3), parameter=torch.nn.Parameter(torch.randn(2, 1)))
    flat = {name: value.detach().clone().contiguous() for name, value in state.items()}
    save_file(flat, OUT / "kinds.safetensors")
    state["integers"] = torch.arange(3)
    torch.save(state, OUT / "kinds.bin")


def interleaved(rows, head_dim):
    """Rows in the order of what turns neighbours, from that of what turns halves."""
    return rows.view(-1, 2, head_dim // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def internevo(state, config, adapt_hf, wqkv):
    head_dim = config.hidden_size // config.num_attention_heads
    groups, each = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
    out = {}
    for name, value in state.items():
        if not adapt_hf and (".q_proj." in name or ".k_proj." in name):
            value = interleaved(value, head_dim)
        for ours, theirs in [
            ("model.embed_tokens", "tok_embeddings"), ("model.layers.", "layers."), ("model.norm", "norm"), ("lm_head", "output"),
            ("self_attn.q_proj", "attention.wq"), ("self_attn.k_proj", "attention.wk"), ("self_attn.v_proj", "attention.wv"),
            ("self_attn.o_proj", "attention.wo"), ("mlp.gate_proj", "feed_forward.w1"), ("mlp.down_proj", "feed_forward.w2"),
            ("mlp.up_proj", "feed_forward.w3"), ("input_layernorm", "attention_norm"), ("post_attention_layernorm", "ffn_norm"),
        ]:
            name = name.replace(ours, theirs)
        out[name] = value
    if wqkv:
        for kind in ("weight", "bias"):
            q, k, v = (out.pop(f"layers.0.attention.w{which}.{kind}") for which in "qkv")
            rest = q.shape[1:]
            parts = [q.view(groups, each * head_dim, *rest), k.view(groups, head_dim, *rest), v.view(groups, head_dim, *rest)]
            out[f"layers.0.attention.wqkv.{kind}"] = torch.cat(parts, 1).reshape(-1, *rest)
    return out


def model():
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, attention_bias=True, initializer_range=0.3)
    state = LlamaForCausalLM(config).half().state_dict()
    for value in state.values():
        if value.dim() == 1:
            value += 0.2 * torch.randn_like(value)
    save_file(state, OUT / "model.safetensors", {"format": "pt"})
    torch.save(state, OUT / "model.bin")
    names = list(state)
    for number, part in enumerate((names[:5], names[5:]), 1):
        torch.save({name: state[name].clone() for name in part}, OUT / f"model-0000{number}-of-00002.bin")
    torch.save(internevo(state, config, False, False), OUT / "internevo.pt")
    # A model that is wrapped has its name before all others; older ones have the embedding in a module of its own.
    packed = internevo(state, config, True, True)
    packed["tok_embeddings.word_embeddings.weight"] = packed.pop("tok_embeddings.weight")
    packed["layers.0.attention.rotary_emb.inv_freq"] = torch.ones(2)
    torch.save({f"model.{name}": value for name, value in packed.items()}, OUT / "internevo_wqkv.pt")


def refused():
    torch.save(collections.OrderedDict(a=torch.ones(2)), OUT / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"a": torch.ones(2), "b": Foreign()}, OUT / "foreign.bin")
    torch.save({"model": {"a": torch.ones(2)}, "step": 3}, OUT / "training.bin")


OUT.mkdir(exist_ok=True)
kinds()
model()
refused()
