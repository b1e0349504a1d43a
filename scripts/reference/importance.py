"""Writes tests/reference/model_importance.json: how much each unit of tests/reference/model_plain matters, by PyTorch.

    python scripts/reference/importance.py

needs torch and transformers. The data are the four sequences of model_train.json.
"""

import json
import pathlib

import torch
from transformers import LlamaForCausalLM

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"


def rows():
    tokens = json.loads((HERE / "model_train.json").read_text())["tokens"]
    return torch.tensor([tokens[i * 8 : i * 8 + 9] for i in range(4)])


def taylor(model, ids):
    out = model(ids[:, :-1]).logits
    torch.nn.functional.cross_entropy(out.flatten(0, 1), ids[:, 1:].flatten()).backward()
    w = {name: (p * p.grad).abs().detach().double() for name, p in model.named_parameters()}
    size, depth = model.config.head_dim, model.config.num_hidden_layers
    hidden = w["model.embed_tokens.weight"].sum(0) + w["lm_head.weight"].sum(0)
    result = {"neurons": [], "heads": [], "kv_heads": [], "layers": []}
    for layer in range(depth):
        q, k, v, o = (w[f"model.layers.{layer}.self_attn.{name}_proj.weight"] for name in "qkvo")
        gate, up, down = (w[f"model.layers.{layer}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        hidden += sum(m.sum(0) for m in (q, k, v, gate, up)) + o.sum(1) + down.sum(1)
        result["neurons"].append((gate.sum(1) + up.sum(1) + down.sum(0)).tolist())
        result["heads"].append((q.sum(1) + o.sum(0)).view(-1, size).sum(1).tolist())
        result["kv_heads"].append((k.sum(1) + v.sum(1)).view(-1, size).sum(1).tolist())
        result["layers"].append(float(sum(m.sum() for m in (q, k, v, o, gate, up, down))))
    return result | {"hidden": hidden.tolist()}


def activation(model, ids):
    seen, depth, size = {}, model.config.num_hidden_layers, model.config.head_dim
    hidden = torch.zeros(model.config.hidden_size, dtype=torch.double)

    def norm(_, __, out):
        hidden.add_(out.detach().double().abs().flatten(0, 1).mean(0))

    def given(name):
        return lambda _, args: seen.__setitem__(name, args[0].detach().double())

    hooks = [model.model.norm.register_forward_hook(norm)]
    for index, layer in enumerate(model.model.layers):
        hooks += [part.register_forward_hook(norm) for part in (layer.input_layernorm, layer.post_attention_layernorm)]
        hooks.append(layer.mlp.down_proj.register_forward_pre_hook(given(f"neurons{index}")))
        hooks.append(layer.self_attn.o_proj.register_forward_pre_hook(given(f"heads{index}")))
        hooks.append(layer.register_forward_pre_hook(given(f"in{index}")))
    hooks.append(model.model.norm.register_forward_pre_hook(given(f"in{depth}")))
    with torch.no_grad():
        model(ids[:, :-1])
    [hook.remove() for hook in hooks]
    change = lambda a, b: float((1 - torch.nn.functional.cosine_similarity(a, b, -1)).abs().mean())
    return {
        "hidden": hidden.tolist(),
        "neurons": [seen[f"neurons{i}"].abs().flatten(0, 1).mean(0).tolist() for i in range(depth)],
        "heads": [seen[f"heads{i}"].unflatten(-1, (-1, size)).norm(dim=-1).flatten(0, 1).mean(0).tolist() for i in range(depth)],
        "kv_heads": [[0.0] * model.config.num_key_value_heads for _ in range(depth)],
        "layers": [change(seen[f"in{i}"], seen[f"in{i + 1}"]) for i in range(depth)],
    }


def main():
    model, ids = LlamaForCausalLM.from_pretrained(HERE / "model_plain").eval(), rows()
    result = {"activation": activation(model, ids), "taylor": taylor(model, ids)}
    (HERE / "model_importance.json").write_text(json.dumps(result) + "\n")


main()
