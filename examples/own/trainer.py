r"""Trains a Llama on several processes with PyTorch; `trainer.tlm` runs it as a stage:

    torchrun --standalone --nproc_per_node 2 trainer.py --init DIR --data DIR --tokens 100000 --batch 4096 \
        --lr 1e-3 --seed 0 --model DIR --train-log DIR --loss FILE

Each process holds the whole model (DistributedDataParallel: nccl on GPUs, gloo on CPUs) and takes its share of each batch.
Optimiser and schedule are those that `train.run` has by default. The state is saved in the folder `TLM_STATE` every 15 seconds and
on SIGTERM, and the next start goes on there.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import signal
import time

import numpy
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

SAVE_EVERY = 15.0  # seconds
TELL_EVERY = 5.0


class Sequences:
    """The sequences of a dataset or a view of one, as docs/data.md describes the folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        kind = meta["dtype"]
        self.seq: int = meta["seq"]
        self.tokens = numpy.memmap(folder / f"tokens.{kind}", {"u16": "<u2", "u32": "<u4"}[kind], "r")
        view = folder / "sequences.u64"
        self.ids = numpy.fromfile(view, "<u8") if view.exists() else numpy.arange(meta["sequences"])

    def batch(self, places: numpy.ndarray) -> torch.Tensor:
        """Returns `[places, seq + 1]` ids: all but the last are read, all but the first predicted."""
        starts = self.ids[places].astype(numpy.int64) * self.seq
        rows = [self.tokens[start : start + self.seq + 1] for start in starts]
        return torch.from_numpy(numpy.stack(rows).astype(numpy.int64))


def places(step: int, batch: int, count: int, seed: int) -> numpy.ndarray:
    """Returns what a step sees: endless passes over all sequences, each shuffled anew."""
    at = numpy.arange(step * batch, (step + 1) * batch)
    passes = {turn: numpy.random.default_rng([seed, turn]).permutation(count) for turn in set(at // count)}
    return numpy.array([passes[turn][place] for turn, place in zip(at // count, at % count)])


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Rises over 3% of the steps, then falls as a cosine to a tenth."""
    warmup = round(0.03 * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    part = min((step - warmup) / max(steps - warmup - 1, 1), 1.0)
    return peak * (0.1 + 0.9 * (1 + math.cos(math.pi * part)) / 2)


def load(folder: pathlib.Path) -> torch.nn.Module:
    import transformers  # here, so that torchrun's summary tells if it is missing

    transformers.utils.logging.disable_progress_bar()
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adamw(model: torch.nn.Module) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)


def save(state: dict, path: pathlib.Path) -> None:
    """Writes beside the old state and then replaces it, so that a kill leaves one of both whole."""
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


class Stop:
    """Whether SIGTERM came. torchrun passes it on to all of its processes."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self.ask)

    def ask(self, *_: object) -> None:
        self.asked = True


def set_up() -> torch.device:
    """Joins the other processes; returns the device of this one."""
    here, world = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    gpus = torch.cuda.device_count()
    if gpus == 0:
        torch.set_num_threads(max(torch.get_num_threads() // world, 1))
        dist.init_process_group("gloo")
        return torch.device("cpu")
    if here >= gpus:
        raise ValueError(f"process {here + 1} of {world} has no GPU: start fewer, or give the step `run {{ gpus: {world} }}`")
    torch.cuda.set_device(here)
    dist.init_process_group("nccl")
    return torch.device("cuda", here)


def train(args: argparse.Namespace) -> None:
    stop, device = Stop(), set_up()
    rank, world = dist.get_rank(), dist.get_world_size()
    data = Sequences(args.data)
    batch = args.batch // data.seq
    if len(data.ids) == 0 or batch == 0 or batch % world > 0:
        raise ValueError(f"{len(data.ids)} sequences in batches of {batch} can't be shared by {world} processes")
    steps = math.ceil(args.tokens / (batch * data.seq))

    model = load(args.init).to(device)
    optimiser, losses = adamw(model), []
    state_path = pathlib.Path(os.environ.get("TLM_STATE", args.model.parent)) / "trainer.pt"
    if state_path.exists():
        state = torch.load(state_path, map_location=device)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        losses = state["losses"]
    if rank == 0:
        how = f"going on after step {len(losses)} of" if losses else "training"
        print(f"{how} {steps} steps of {batch} sequences, {world} processes on {device.type}", flush=True)

    parallel = torch.nn.parallel.DistributedDataParallel(model)
    saved = told = time.monotonic()
    told_step = len(losses)
    for step in range(len(losses), steps):
        ids = data.batch(places(step, batch, len(data.ids), args.seed)[rank::world]).to(device)
        logits = parallel(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, args.lr)
        optimiser.step()
        optimiser.zero_grad()

        # All processes have to stop at the same step, wherever each was when the signal came.
        shared = torch.tensor([loss.item() / world, float(stop.asked)], dtype=torch.float64, device=device)
        dist.all_reduce(shared)
        mean, stops = shared.tolist()
        losses.append(mean)
        if not math.isfinite(mean):
            raise ValueError(f"the loss of step {step + 1} is {mean}: try a smaller learning rate")
        now, is_over = time.monotonic(), stops > 0 or step + 1 == steps
        if rank == 0 and (now - told > TELL_EVERY or is_over):
            speed = (step + 1 - told_step) * batch * data.seq / (now - told)
            print(f"step {step + 1} of {steps}: loss {mean:.3f}, {speed:,.0f} tokens/s", flush=True)
            told, told_step = now, step + 1
        if rank == 0 and (now - saved > SAVE_EVERY or stops > 0):
            save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "losses": losses}, state_path)
            saved = now
        if stops > 0:
            if rank == 0:
                print(f"stopped, the state is saved after step {step + 1}", flush=True)
            break
    else:
        if rank == 0:
            publish(args, model, losses, batch * data.seq)
    dist.destroy_process_group()


def publish(args: argparse.Namespace, model: torch.nn.Module, losses: list[float], batch: int) -> None:
    """Writes the model as a Hugging Face folder, what was logged, and the mean loss of the last twentieth of the steps."""
    model.save_pretrained(args.model)
    for file in args.init.glob("tokenizer*.json"):
        shutil.copy(file, args.model)
    steps = [{"step": at, "tokens": at * batch, "loss": loss} for at, loss in enumerate(losses, 1)]
    args.train_log.mkdir()
    (args.train_log / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    last = losses[-max(len(losses) // 20, 1) :]
    args.loss.write_text(json.dumps(sum(last) / len(last)))


@record
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("init", "data", "model", "train-log", "loss"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    for name in ("tokens", "batch", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
