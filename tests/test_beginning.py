"""What files of weights tell before their numbers, read without what reads the numbers."""

import pytest
import torch

from results.errors import WeightsError
from supernet.weights.beginning import read_beginning
from supernet.weights.tensors import read_tensors, write_tensors

TENSORS = {"a": torch.ones(3, 5), "b": torch.zeros(2, dtype=torch.int64), "c": torch.tensor(1.5)}


def test_metadata_and_numbers_are_those_of_the_tensors(tmp_path):
    path = tmp_path / "w.safetensors"
    for tensors, metadata in ((TENSORS, {"arch": "x"}), (TENSORS, {}), ({}, {"y": "z"})):
        write_tensors(path, tensors, metadata)
        assert read_beginning(path) == (metadata, sum(t.numel() for t in tensors.values()))
        assert read_tensors(path)[1] == metadata


def test_a_file_that_was_cut_off_anywhere_is_damaged(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, TENSORS, {"arch": "x"})
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(WeightsError, match=r"w\.safetensors"):
            read_beginning(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(WeightsError, match="is damaged: it has"):
        read_beginning(path)
