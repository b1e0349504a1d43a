"""Writes tests/reference/log.tfevents with TensorBoard's own writer, and reads a training's log back as TensorBoard does.

    pip install tensorboard
    python scripts/reference/events.py            # writes the file
    python scripts/reference/events.py FOLDER     # prints the scalars of a `TrainLog` folder
"""

import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

LOG = [
    {"step": 1, "tokens": 10, "loss": 2.5, "lr": 1e-3},
    {"step": 300, "tokens": 20, "loss": 2.25},
    {"step": 300, "tokens": 20, "valid_loss": 2.75},
]


def event(line):
    values = [summary_pb2.Summary.Value(tag=name, simple_value=line[name]) for name in sorted(line) if name != "step"]
    return event_pb2.Event(wall_time=line["step"], step=line["step"], summary=summary_pb2.Summary(value=values))


def write(path):
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        writer.write(event_pb2.Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString(deterministic=True))
        for line in LOG:
            writer.write(event(line).SerializeToString(deterministic=True))
        writer.flush()


def read(folder):
    events = EventAccumulator(folder, size_guidance={"scalars": 0}).Reload()
    for tag in events.Tags()["scalars"]:
        scalars = events.Scalars(tag)
        print(tag, len(scalars), [(scalar.step, scalar.value) for scalar in scalars[:3]])


if len(sys.argv) > 1:
    read(sys.argv[1])
else:
    write(Path(__file__).parents[2] / "tests/reference/log.tfevents")
