"""Writes tests/reference/last_word.json: what lm-evaluation-harness makes of the last words of tests/reference/last_word.jsonl.

    TLM_WRITE_REFERENCE=1 cargo test --bin tlm-torch choice_agrees
    python scripts/reference/last_word.py target/debug/deps/choice

needs torch, transformers and lm-eval[hf] (0.4.13). The models are those of `choice.py`. As they know no words, the texts are
searched for such that each model guesses some.
"""

import json
import pathlib
import random
import statistics
import sys
import tempfile

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"
# That of lm-eval's lambada_openai.
TASK = {
    "task": "last_word", "dataset_path": "json", "test_split": "test", "output_type": "loglikelihood",
    "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}", "doc_to_target": "{{' '+text.split(' ')[-1]}}",
    "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
                    {"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
FIXED = ["The cat sat on the mat", "word", "a  b", "one two\nthree", "é 中文 ende", "the end .", " x", "x " * 40 + "yz"]


def guessed(model, count):
    """Texts that end with what the model would write."""
    draw, found = random.Random(1), []
    while len(found) < count:
        context = " ".join("".join(draw.choices("abcdehnorst", k=draw.randint(1, 4))) for _ in range(draw.randint(1, 6)))
        ids = model.tok_encode(context)
        with torch.no_grad():
            best = int(model.model(torch.tensor([ids])).logits[0, -1].argmax())
        word = model.tok_decode([best])
        if len(word) > 1 and word[0] == " " and " " not in word[1:] and model.tok_encode(context + word) == ids + [best]:
            found.append(context + word)
    return found


def run(model, path):
    task = TASK | {"dataset_kwargs": {"data_files": {"test": str(path)}}}
    out = lm_eval.simple_evaluate(
        model=model, tasks=[task], log_samples=True, bootstrap_iters=2, task_manager=TaskManager())
    result = out["results"]["last_word"]
    samples = sorted(out["samples"]["last_word"], key=lambda sample: sample["doc_id"])
    told = {name: result[f"{name},none"] for name in ("acc", "acc_stderr", "perplexity")}
    answers = [sample["resps"][0][0] for sample in samples]
    # The harness draws samples for it, which says little of likelihoods as far apart as these.
    error = statistics.stdev(value for value, _ in answers) / len(answers) ** 0.5
    told["perplexity_stderr"] = told["perplexity"] * error
    return told | {"answers": [{"log_likelihood": float(f"{value:.8g}"), "right": bool(right)} for value, right in answers]}


def main(root):
    models = {path.name: HFLM(pretrained=str(path), dtype="float32", device="cpu", batch_size=4)
              for path in sorted(path for path in pathlib.Path(root).iterdir() if path.is_dir())}
    texts = FIXED + [text for model in models.values() for text in guessed(model, 4)]
    path = HERE / "last_word.jsonl"
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    (HERE / "last_word.json").write_text(json.dumps({name: run(model, path) for name, model in models.items()}) + "\n")


main(sys.argv[1])
