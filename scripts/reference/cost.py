"""Writes tests/reference/model_cost.json: the parameters and floating-point operations of Llamas as transformers and PyTorch count
them, for tests/it/cost.rs.

    python scripts/reference/cost.py

needs torch and transformers. Of each shape it stores `config.json`, `num_parameters()`, and what `torch.utils.flop_counter` counts in
a forward and a backward pass over `batch` sequences of `seq` tokens with eager attention: `linear`, the products with matrices of the
model, and `attention`, the batched products of queries, keys and values. PyTorch counts all `seq * seq` pairs of positions, as it
computes those that the mask hides too; tlm counts the `seq * (seq + 1) / 2` that matter. Neither counts what is done number by
number, as norms, rotary positions and softmax.
"""

import json
import pathlib

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference" / "model_cost.json"
BATCH, SEQ = 2, 24
COMMON = dict(max_position_embeddings=64, attn_implementation="eager")
SHAPES = {
    "plain": dict(vocab_size=320, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=4),
    "grouped, tied": dict(vocab_size=500, hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=6,
                          num_key_value_heads=2, tie_word_embeddings=True),
    "biased, heads wider than the model": dict(vocab_size=128, hidden_size=48, intermediate_size=100, num_hidden_layers=1,
                                               num_attention_heads=4, num_key_value_heads=1, head_dim=32,
                                               attention_bias=True, mlp_bias=True),
}
# Too large to run; its parameters are counted without memory.
B0 = dict(vocab_size=48000, hidden_size=1792, intermediate_size=4864, num_hidden_layers=20, num_attention_heads=14,
          num_key_value_heads=14, head_dim=128, attention_bias=True)


def counted(model):
    """Operations of a forward pass, and of one with a backward pass, by kind of product."""
    ids = torch.randint(0, model.config.vocab_size, (BATCH, SEQ))
    passes = []
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter:
            loss = model(ids, labels=ids).loss
            if backward:
                loss.backward()
        counts = {str(op): int(flops) for op, flops in counter.get_flop_counts()["Global"].items()}
        linear = sum(flops for op, flops in counts.items() if op in ("aten.mm", "aten.addmm"))
        attention = counts.pop("aten.bmm")
        assert linear + attention == counter.get_total_flops(), counts
        passes.append(dict(linear=linear, attention=attention))
    return dict(zip(("forward", "training"), passes))


def main():
    cases = []
    for name, shape in SHAPES.items():
        model = LlamaForCausalLM(LlamaConfig(**shape, **COMMON))
        config = json.loads(model.config.to_json_string())
        cases.append(dict(name=name, batch=BATCH, seq=SEQ, config=config, params=model.num_parameters(), **counted(model)))
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**B0))
    cases.append(dict(name="B0", config=json.loads(model.config.to_json_string()), params=model.num_parameters()))
    for case in cases:
        keep = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "head_dim", "tie_word_embeddings", "attention_bias", "mlp_bias")
        case["config"] = {key: case["config"][key] for key in keep}
    OUT.write_text(json.dumps(cases, indent=1) + "\n")


main()
