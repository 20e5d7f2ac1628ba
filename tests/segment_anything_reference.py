"""`segment_anything`, which our decoder must equal, imported without the torchvision it names.

Of torchvision only `batched_nms` and `box_area` are ever called; slow twins stand in for them.
"""

import functools
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

PACKAGE = "segment_anything"


def slow_suppress(boxes, scores, max_iou):
    """Non-maximum suppression as one would explain it."""
    boxes, scores = boxes.tolist(), scores.tolist()
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(not slow_iou(boxes[index], boxes[other]) > max_iou for other in kept):
            kept.append(index)
    return kept


def slow_iou(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0


def batched_nms(boxes, scores, categories, iou_threshold):
    assert not categories.any()
    return torch.tensor(slow_suppress(boxes, scores, iou_threshold), dtype=torch.int64)


def box_area(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


@functools.cache
def segment_anything() -> Any:
    """The package, or a skipped test where it is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"{PACKAGE} is not installed")
    names = ["torchvision", "torchvision.ops", "torchvision.ops.boxes"]
    names += ["torchvision.transforms", "torchvision.transforms.functional"]
    before = {name: sys.modules.get(name) for name in names}
    stubs: dict[str, Any] = {name: ModuleType(name) for name in names}
    boxes, functional = stubs[names[2]], stubs[names[4]]
    boxes.batched_nms, boxes.box_area = batched_nms, box_area
    functional.resize = functional.to_pil_image = None
    sys.modules.update(stubs)
    try:
        return importlib.import_module(PACKAGE)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
