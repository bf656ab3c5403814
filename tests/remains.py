"""What a run left behind, in a form in which two runs can be compared to the last bit."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

Points = Counter[tuple[str, int, float]]


def result_of(run: Path) -> dict[str, Any]:
    """`result.json` without what may differ between equal runs."""
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    del result["times"]
    del result["commit"]  # a checkout may move on while its tests run
    return result


def points_of(run: Path) -> Points:
    """Every (tag, step, value) in the event files, with how often it was logged."""
    points: Points = Counter()
    for path in run.glob("events.out.tfevents.*"):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                points[value.tag, event.step, value.simple_value] += 1
    return points


def without_steps(points: Points) -> Points:
    """Those against the epoch, which do not depend on how many SGD steps make a block."""
    return Counter({point: count for point, count in points.items() if point[0] != "train/loss_step"})
