"""Which network weights belong to that do not fit the one that they were given for."""

from dataclasses import replace

from supernet.arch import Arch, ClassificationHead, SegmentationHead, Task
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.official import DATASETS, SUPER_RESOLUTION, heads_of, named_arch
from supernet.weights.tensors import State

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
GAUSSIAN = "positional_encoding_gaussian_matrix"  # SAM's, a buffer too
CLASSIFIERS: dict[Task, tuple[str, ...]] = {  # how their names end, officially, in timm, here
    "classification": (
        "head.op_list.3.linear.weight",
        "head.classifier.4.weight",
        ".classifier.linear.weight",
    ),
    "segmentation": (
        "head.output_ops.0.op_list.0.conv.weight",
        "head.output_ops.0.op_list.1.conv.weight",
        ".classifier.conv.weight",
    ),
}


def num_classes_of(state: State, task: Task | None = None) -> int | None:
    """Return the classes of the classifier among tensors, for a task or for any.

    None where there is no such classifier.
    """
    ends = (
        tuple(end for ends in CLASSIFIERS.values() for end in ends)
        if task is None
        else CLASSIFIERS.get(task, ())
    )
    classes = (t.shape[0] for name, t in state.items() if name.endswith(ends) and t.dim() > 1)
    return max(classes, default=None)


def advice(state: State, told: Arch | None, asked: Arch) -> str:
    """Return which network the weights belong to, as the end of an error.

    `told`: by the file; `asked`: what they do not fit.
    """
    if told is not None:
        if replace(told, resolution=asked.resolution) == asked:
            return "The file says that it holds this network, so it is damaged"
        classes = getattr(told.head, "num_classes", None)
        of = f" of {classes} classes" if classes else ""
        return f"The file says that it holds {told.describe()}{of}; leave --arch out to use that"
    buffers = (*STATISTICS, GAUSSIAN)
    count = sum(t.numel() for name, t in state.items() if not name.endswith(buffers))
    classes = num_classes_of(state) or getattr(asked.head, "num_classes", None)
    candidates = _candidates(classes)
    params = {}
    for label, candidate in candidates.items():
        params[label] = network_cost(blocks_of(candidate)).params
        if candidate.task == "promptable":
            params[label] += _decoder_params(state)
    nearest = min(params, key=lambda label: abs(params[label] - count))
    if replace(candidates[nearest], resolution=asked.resolution) == asked:
        if params[nearest] == count:
            return "They are as many as this network's; give them the names of the official code"
        return (
            f"No official network has their {count:,} parameters; this one, the nearest, has "
            f"{params[nearest]:,}"
        )
    if params[nearest] == count:
        return f"They would fit {nearest}"
    return (
        f"No official network has their {count:,} parameters; nearest is {nearest} with "
        f"{params[nearest]:,}"
    )


def _decoder_params(state: State) -> int:
    prefixes = ("prompt_encoder.", "mask_decoder.")
    return sum(
        tensor.numel()
        for name, tensor in state.items()
        if name.startswith(prefixes) and not name.endswith(GAUSSIAN)
    )


def _candidates(classes: int | None) -> dict[str, Arch]:
    """Return the official networks by the flags that name them."""
    candidates: dict[str, Arch] = {}
    for task, datasets in DATASETS.items():
        for dataset in datasets:
            for name in heads_of(dataset):
                arch = named_arch(name, task=task, dataset=dataset)
                flags = f"--arch {name}"
                if task == "segmentation":
                    flags += f" --task {task} --dataset {dataset}"
                head = arch.head
                if isinstance(head, ClassificationHead | SegmentationHead):
                    if classes not in (None, head.num_classes):
                        flags += f" --num-classes {classes}"
                    head = replace(head, num_classes=classes or head.num_classes)
                candidates[flags] = replace(arch, head=head)
    return candidates | {f"--arch {name}": arch for name, arch in SUPER_RESOLUTION.items()}
