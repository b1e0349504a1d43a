"""Writes tests/reference/model_written.json: what transformers makes of the folders that tlm's stages write.

    TLM_WRITE_REFERENCE=1 cargo test --bin tlm-torch folders_written_here
    python scripts/reference/written.py target/debug/deps/written

needs torch and transformers. The first command leaves a folder per case there (its own check fails as long as the
stored values are old); the second one loads each with AutoModelForCausalLM and AutoTokenizer and stores logits and ids.
"""

import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference" / "model_written.json"
TEXT = "$%&+,0123"


def case(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], (folder, info)
    ids = AutoTokenizer.from_pretrained(folder).encode(TEXT, add_special_tokens=False)
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits
    return {"ids": ids, "logits": [float(f"{x:.8g}") for x in logits.double().flatten().tolist()]}


folders = sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_dir())
OUT.write_text(json.dumps({"text": TEXT, "cases": {path.name: case(path) for path in folders}}) + "\n")
