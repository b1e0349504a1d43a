"""Writes tests/reference/model_taught.json: gradients by PyTorch, with a Llama of transformers, where a token sees its own
document only, where a teacher is learned from (Hinton et al., arXiv 1503.02531), and in bf16 by autocast.

    python scripts/reference/training.py

needs torch, transformers and the checkpoints that `model.py` writes.
"""

import json
import pathlib

import torch
from torch.nn import functional as F
from transformers import LlamaForCausalLM

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"
DOCUMENTS = [0, 5, 11, 11, 16, 30]
WEIGHT, TEMPERATURE = 0.3, 2.0


def open_model(name):
    return LlamaForCausalLM.from_pretrained(HERE / name, attn_implementation="eager").eval()


def mask(tokens):
    """What each token of each sequence of 8 sees, to add to scores: `[4, 1, 8, 8]`."""
    document = [sum(start <= at for start in DOCUMENTS) for at in range(len(tokens))]
    sees = lambda first, q, k: k <= q and document[first + k] == document[first + q]
    rows = [[[sees(first, q, k) for k in range(8)] for q in range(8)] for first in range(0, 32, 8)]
    return torch.where(torch.tensor(rows), 0.0, torch.finfo(torch.float32).min)[:, None]


def result(model, loss, **more):
    model.zero_grad()
    loss.backward()
    number = lambda x: float(f"{x:.7g}")
    gradients = {name: [number(x) for x in p.grad.flatten().tolist()] for name, p in model.named_parameters()}
    return {"loss": loss.item(), "gradients": gradients, **more}


def main():
    tokens = json.loads((HERE / "model_train.json").read_text())["tokens"]
    rows = torch.tensor([tokens[i * 8 : i * 8 + 9] for i in range(4)])
    inputs, targets = rows[:, :-1], rows[:, 1:].flatten()
    model, teacher = open_model("model_plain"), open_model("model_biased")
    of = lambda **more: F.cross_entropy(model(inputs, **more).logits.float().flatten(0, 1), targets)
    documents = result(model, of(attention_mask=mask(tokens)), documents=DOCUMENTS)
    logits = model(inputs).logits.flatten(0, 1)
    with torch.no_grad():
        wanted = F.log_softmax(teacher(inputs).logits.flatten(0, 1) / TEMPERATURE, -1)
    own = F.log_softmax(logits / TEMPERATURE, -1)
    divergence = F.kl_div(own, wanted, log_target=True, reduction="batchmean") * TEMPERATURE**2
    nll = F.cross_entropy(logits, targets)
    taught = result(
        model, (1 - WEIGHT) * nll + WEIGHT * divergence,
        weight=WEIGHT, temperature=TEMPERATURE, nll=nll.item(), divergence=divergence.item())
    with torch.autocast("cpu", torch.bfloat16):
        bf16 = result(model, of())
    (HERE / "model_taught.json").write_text(json.dumps({"documents": documents, "taught": taught, "bf16": bf16}) + "\n")


main()
