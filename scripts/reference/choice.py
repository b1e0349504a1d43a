"""Writes tests/reference/choice.json: what lm-evaluation-harness makes of tests/reference/choice.jsonl.

    TLM_WRITE_REFERENCE=1 cargo test --bin tlm-torch choice_agrees
    python scripts/reference/choice.py target/debug/deps/choice

needs torch, transformers and lm-eval[hf] (0.4.13). The first command leaves the models there, with tokenizers that split a text
as the test's own do (its check fails as long as the stored values are old).
"""

import json
import pathlib
import sys
import tempfile

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"
LINES = [line for line in (HERE / "choice.jsonl").read_text().splitlines() if line]
CASES = {
    "plain": {"shots": 0, "prompt": "{query}", "delimiter": " ", "separator": "\n\n"},
    "shown": {"shots": 2, "prompt": "Q: {query} A:", "delimiter": " ", "separator": "\n"},
    "joined": {"shots": 0, "prompt": "{query}", "delimiter": "", "separator": ""},
}


def run(model, case, folder):
    shots = case["shots"]
    shown, asked = folder / "shown.jsonl", folder / "asked.jsonl"
    shown.write_text("\n".join(LINES[: max(shots, 1)]) + "\n")
    asked.write_text("\n".join(LINES[shots:]) + "\n")
    task = {
        "task": "choice", "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"train": str(shown), "test": str(asked)}},
        "test_split": "test", "fewshot_split": "train", "fewshot_config": {"sampler": "first_n"}, "num_fewshot": shots,
        "output_type": "multiple_choice",
        "doc_to_text": case["prompt"].replace("{", "{{").replace("}", "}}"),
        "doc_to_choice": "choices", "doc_to_target": "gold",
        "target_delimiter": case["delimiter"], "fewshot_delimiter": case["separator"],
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True}
                        for name in ("acc", "acc_norm", "acc_bytes")],
    }
    out = lm_eval.simple_evaluate(
        model=model, tasks=[task], num_fewshot=shots, log_samples=True, bootstrap_iters=1, task_manager=TaskManager())
    result = out["results"]["choice"]
    samples = sorted(out["samples"]["choice"], key=lambda sample: sample["doc_id"])
    told = {name: result[f"{name},none"] for name in ("acc", "acc_norm", "acc_bytes")}
    told |= {f"{name}_stderr": result[f"{name}_stderr,none"] for name in ("acc", "acc_norm", "acc_bytes")}
    values = [[float(f"{value[0][0]:.8g}") for value in sample["resps"]] for sample in samples]
    return {"format": case, **told, "log_likelihoods": values}


def main(root):
    result = {}
    for path in sorted(path for path in pathlib.Path(root).iterdir() if path.is_dir()):
        model = HFLM(pretrained=str(path), dtype="float32", device="cpu", batch_size=4)
        with tempfile.TemporaryDirectory() as folder:
            result[path.name] = {name: run(model, case, pathlib.Path(folder)) for name, case in CASES.items()}
    (HERE / "choice.json").write_text(json.dumps(result) + "\n")


main(sys.argv[1])
