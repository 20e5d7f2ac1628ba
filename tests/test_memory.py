"""Lack of memory, as PyTorch tells it, and what only looks like it."""

import pytest
import torch

from supernet.memory import is_out_of_memory


def test_a_lack_of_memory_is_told():
    with pytest.raises(RuntimeError) as real:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(real.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError) as other:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(other.value)
    assert not is_out_of_memory(NotImplementedError("memory format"))
    assert not is_out_of_memory(OSError("Cannot allocate memory"))
