"""Writes tests/reference/model_gguf.json: the logits that others compute with a GGUF file that tlm wrote.

    TLM_WRITE_REFERENCE=1 cargo test --bin tlm-torch these_logits_elsewhere
    python scripts/reference/exported.py target/debug/deps/written.gguf

needs torch, transformers and gguf, and llama-cpp-python for its logits. The first command leaves the file there (its check
fails as long as the stored values are old).
"""

import json
import pathlib
import sys

import torch
from transformers import LlamaForCausalLM

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"
IDS = [3, 17, 5, 60, 0, 33, 33, 8, 41, 2, 19, 263]


def numbers(values):
    return [float(f"{x:.8g}") for x in values]


def main(path):
    path = pathlib.Path(path)
    model = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = {"transformers": numbers(model(torch.tensor([IDS])).logits.double().flatten().tolist())}
    try:
        from llama_cpp import Llama
    except ImportError:
        print("without llama-cpp-python")
    else:
        llama = Llama(str(path), logits_all=True, n_ctx=64, verbose=False, type_k=0, type_v=0)
        llama.eval(IDS)
        logits["llama.cpp"] = numbers(x for row in llama.scores[: len(IDS)] for x in row.tolist())
    (HERE / "model_gguf.json").write_text(json.dumps({"ids": [IDS], "logits": logits}) + "\n")


main(sys.argv[1])
