"""timm as a reference: its models are imported without the packages that it wants beside PyTorch.

timm is no dependency. Where somebody installed it (`pip install --no-deps timm`), stand-ins
take the place of what its imports ask for and these models never use.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from contextlib import contextmanager

UNUSED = ("torchvision", "huggingface_hub", "yaml")


class _Names(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _Module(types.ModuleType):
    """Gives a class for any name."""

    __file__ = ""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {"__init__": lambda self, *a, **k: None})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in UNUSED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


@contextmanager
def stand_ins():
    """Only what is not installed is stood in for."""
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n, m in sys.modules.items() if isinstance(m, _Module)]:
            del sys.modules[name]


def is_installed():
    return importlib.util.find_spec("timm") is not None


def create(name):
    """timm's efficientvit_NAME, b0 to b3 or l1 to l3, at random."""
    importlib.import_module("torch._dynamo")  # it looks for torchvision when first imported
    with stand_ins():
        import timm

        return timm.create_model(f"efficientvit_{name}")
