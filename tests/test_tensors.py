"""Files of tensors: written alike each time, and read within the bounds of their size."""

import io
import json
import os
import pickle
import resource
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from results.errors import RunError, UserError, WeightsError
from supernet.arch import ClassificationHead
from supernet.model import build, create_model
from supernet.official import named_arch
from supernet.sharing.checkpoint import open_supernet
from supernet.weights.files import (
    load_weights,
    official_state_dict,
    read_weights,
    save_weights,
)
from supernet.weights.header import read_header
from supernet.weights.networks import load_network
from supernet.weights.tensors import read_tensors, sha256_of, write_tensors

B0 = named_arch("b0")
SMALL = replace(
    B0,
    stages=tuple(replace(s, depth=1, width=16, scales=()) for s in B0.stages),
    head=ClassificationHead((8, 8), 3),
)
TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.bfloat16)}


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return build(SMALL).eval()


@pytest.fixture
def saved(small, tmp_path):
    save_weights(small, tmp_path / "m.safetensors", seed=3, num_train=40)
    return tmp_path / "m.safetensors"


def error_of(read, path):
    """What a reader says of a file in one line; None if it reads it."""
    try:
        read(path)
    except UserError as error:
        return str(error)
    return None


def header_of(path):
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:end]), data[end:]


def write_header(path, header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


# --- Written alike ---------------------------------------------------------------------------


def test_the_bytes_depend_on_the_contents_alone(tmp_path):
    """The library alone writes metadata of this many names in another order nearly each time."""
    names = [f"name{number}" for number in range(8)]
    written = set()
    for number in range(6):
        path = tmp_path / f"{number}.safetensors"
        turned = names[number:] + names[:number]
        write_tensors(path, dict(reversed(TENSORS.items())), dict.fromkeys(turned, "é"))
        written.add(path.read_bytes())
    assert len(written) == 1
    found, metadata = read_tensors(path)
    assert metadata == dict.fromkeys(names, "é")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in TENSORS.items()
    }
    assert load_file(path).keys() == TENSORS.keys()  # other programs read it


def test_a_file_with_the_same_contents_stays_as_it_is(tmp_path):
    """Results are marked with its hash; earlier versions wrote metadata in any order."""
    path, metadata = tmp_path / "x.safetensors", {f"name{number}": "x" for number in range(8)}
    hashes = set()
    for _ in range(5):
        save_file(TENSORS, path, metadata=metadata)
        before = sha256_of(path)
        hashes.add(before)
        write_tensors(path, TENSORS, metadata)
        assert sha256_of(path) == before
    assert len(hashes) > 1  # else this says nothing
    for tensors, texts in (
        (TENSORS | {"a": torch.zeros(3, dtype=torch.bfloat16)}, metadata),
        (TENSORS, metadata | {"name0": "y"}),
        ({"b": TENSORS["b"]}, metadata),
    ):
        write_tensors(path, tensors, texts)
        assert sha256_of(path) not in hashes
        assert read_tensors(path)[1] == texts
        hashes.add(sha256_of(path))


# --- Attacks ---------------------------------------------------------------------------------


@pytest.fixture
def bounded():
    """2 GB more than now, at most: what is claimed must not be allocated."""
    status = Path("/proc/self/status").read_text().splitlines()
    now = next(int(line.split()[1]) for line in status if line.startswith("VmData:")) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now + 2**31, hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@pytest.mark.parametrize("width", [1_000_000, 100_000])
def test_a_network_larger_than_its_file_is_not_built(width, saved, tmp_path, bounded):
    header, body = header_of(saved)
    arch = json.loads(header["__metadata__"]["arch"])
    arch["stages"][3] |= {"width": width, "mixer": "none", "head_dim": 0}
    arch["stages"][2] |= {"width": width, "mixer": "none", "head_dim": 0}
    header["__metadata__"]["arch"] = json.dumps(arch)
    write_header(tmp_path / "x.safetensors", header, body)
    with pytest.raises(WeightsError, match=r"x.safetensors is damaged: it holds .* numbers, and"):
        read_header(tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="is damaged"):
        create_model("b0", pretrained=tmp_path / "x.safetensors")


def test_a_network_of_flags_that_a_file_does_not_fit_is_not_built(saved, bounded):
    wide = replace(SMALL, head=ClassificationHead((100_000, 100_000)))
    with pytest.raises(WeightsError, match="does not fit"):
        load_network(wide, saved)


def test_as_many_classes_as_a_file_claims_are_not_built(tmp_path, bounded):
    state = official_state_dict(build(B0))
    claimed = torch.zeros(1_000_000, 1)
    torch.save(state | {"head.op_list.3.linear.weight": claimed}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="does not fit"):
        create_model("b0", pretrained=tmp_path / "x.pt")
    claimed = torch.zeros(1).expand(10**9, 1280)
    torch.save(state | {"head.op_list.3.linear.weight": claimed}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="lacks the numbers of head"):
        read_weights(tmp_path / "x.pt")


def test_a_compressed_checkpoint_is_not_inflated(tmp_path, bounded):
    torch.save({"state_dict": {"stem.0.x": torch.zeros(1000)}}, tmp_path / "x.pt")
    for name, inflated in (("bomb.pt", 2**26), ("fine.pt", 4000)):
        with (
            zipfile.ZipFile(tmp_path / "x.pt") as old,
            zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for part in old.infolist():
                data = old.read(part)
                is_data = part.filename.endswith("data/0")
                size = inflated if is_data else len(data)
                kind = zipfile.ZIP_DEFLATED if is_data else zipfile.ZIP_STORED
                new.writestr(part.filename, data.ljust(size, b"\0"), kind)
    with pytest.raises(WeightsError, match=r"bomb.pt has .* bytes and claims to hold 67,"):
        read_weights(tmp_path / "bomb.pt")
    assert list(read_weights(tmp_path / "fine.pt").tensors) == ["stem.0.x"]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path),
        lambda path: path.write_bytes(struct.pack("<Q", 2**40) + b"{"),
        lambda path: path.write_bytes(struct.pack("<Q", 2**64 - 1) + b"{"),
        lambda path: write_header(path, b"{" + b"[" * 10**6, b""),
        lambda path: write_header(path, {"__metadata__": {"a": 1}}, b""),
        lambda path: write_header(path, {"__metadata__": [1]}, b""),
        lambda path: path.write_bytes(b"PK\x03\x04" + b"\0" * 100),
        lambda path: path.write_bytes(pickle.dumps([[]] * 3)),
        lambda path: path.write_bytes(b"\x80\x02" + b"(" * 10**4),
    ],
)
def test_other_things_than_weights_end_in_one_line(make, tmp_path, bounded):
    path = tmp_path / "x"
    make(path)
    for read in (read_weights, read_header, lambda p: load_weights(build(SMALL), p)):
        error = error_of(read, path)
        if error is None:
            assert read is read_header  # which asks for our own files alone
        else:
            assert str(path) in error


DTYPES = st.sampled_from(["F32", "F64", "F16", "BF16", "I8", "I64", "U8", "BOOL", "F8_E4M3",
                          "F8_E8M0", "F4", "C64", "U64", "x", 3, None])  # fmt: skip
NUMBERS: st.SearchStrategy[Any] = st.sampled_from(
    [0, 1, 2, -1, 3.5, 10**6, 2**31, 2**63, 2**64, 10**400, "3", None, []]
)
JSONS = st.sampled_from(
    ["", "{", "null", "1e400", "1" * 5000, '"x"', "-1", "0", "NaN", "Infinity", "[" * 50_000, "[]",
     '{"name": "tiny"}', '{"name": ["tiny"]}', '{"name": "tiny", "freeze": 3}', "1e-5", "0.5", "1",
     '{"name": "tiny", "resolutions": ["999999"]}', '{"name": "tiny", "num_classes": 1e9}',
     '{"name": "tiny", "num_classes": 1000000}', '{"name": "tiny", "task": []}',
     '{"family": "b"}', '{"name": "tiny", "freeze": ["stage1.width=16", "a=b"]}']
)  # fmt: skip
NAMES = st.sampled_from(["arch", "norm_eps", "space", "resolutions", "seed", "num_train", "format",
                         "kernel_transform"])  # fmt: skip
TEXTS = JSONS | st.sampled_from(["64", "64,96x192", "10000000", "1", "٣", "64," * 2000, "999999"])


@st.composite
def mutants(draw):
    """Changes of one of our headers: of a tensor's entry, or of a text."""
    kind = draw(st.sampled_from(["metadata", "arch", "tensor", "gone", "cut"]))
    return kind, draw(st.integers(0, 10**6)), draw(NAMES), draw(TEXTS), draw(DTYPES), draw(NUMBERS)


def mutate(header, body, mutant):
    kind, place, name, text, dtype, number = mutant
    metadata = dict(header["__metadata__"])
    header = header | {"__metadata__": metadata}
    tensors = sorted(set(header) - {"__metadata__"})
    chosen = tensors[place % len(tensors)]
    if kind == "metadata":
        metadata[name] = text
    elif kind == "arch":
        arch = json.loads(metadata["arch"])
        at = arch if place % 3 == 0 else arch["stages"][0] if place % 3 == 1 else arch["head"]
        at[sorted(at)[place % len(at)]] = number
        metadata["arch"] = json.dumps(arch)
    elif kind == "gone":
        del header[chosen]
    elif kind == "tensor":
        entry = dict(header[chosen])
        if place % 3 == 0:
            entry["dtype"] = dtype
        elif place % 3 == 1:
            entry["shape"] = [number, *entry["shape"]][: 1 + place % 4]
        else:
            entry["data_offsets"] = [entry["data_offsets"][0], number]
        header[chosen] = entry
    else:
        body = body[: place % (len(body) + 1)]
    return header, body


READERS = (
    read_header,
    open_supernet,
    read_weights,
    lambda path: load_network(read_header(path).arch or SMALL, path),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mutant=mutants())
def test_mutants_of_our_files_give_a_value_or_one_line(mutant, saved, bounded):
    header, body = header_of(saved)
    path = saved.with_name("x.safetensors")
    write_header(path, *mutate(header, body, mutant))
    for read in READERS:
        error = error_of(read, path)
        assert error is None or path.name in error


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutants_of_pytorch_s_files_give_a_value_or_one_line(data, small, tmp_path, bounded):
    buffer = io.BytesIO()
    torch.save({"state_dict": official_state_dict(small), "epoch": 3}, buffer)
    parts = {}
    with zipfile.ZipFile(buffer) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    name = data.draw(st.sampled_from(sorted(parts)) | st.just("archive/data.pkl"))
    if data.draw(st.booleans()):
        altered = bytearray(parts.get(name, b"x"))
        for _ in range(data.draw(st.integers(1, 4))):
            altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
        parts[name] = bytes(altered)
    else:
        parts[name] = parts.get(name, b"")[: data.draw(st.integers(0, 100))]
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 2))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(whole))
    for read in (read_weights, lambda p: load_network(SMALL, p)):
        error = error_of(read, path)
        assert error is None or path.name in error


def test_wrong_texts_of_our_files_are_named(saved):
    header, body = header_of(saved)
    path = saved.with_name("x.safetensors")
    for name, text, read in (
        ("norm_eps", '"x"', lambda p: load_weights(build(SMALL), p)),
        ("norm_eps", "1e400", lambda p: load_weights(build(SMALL), p)),
        ("norm_eps", "1" * 400, lambda p: load_weights(build(SMALL), p)),
        ("resolutions", "1000000", read_header),
        ("resolutions", "64," * 2000 + "64", read_header),
        ("seed", "9" * 5000, read_header),
        ("space", '{"name": "tiny", "resolutions": ["999999"]}', read_header),
        ("space", '{"name": "tiny", "freeze": ' + json.dumps(["a=b"] * 2000) + "}", read_header),
        ("space", '{"name": "tiny", "num_classes": 10000000}', open_supernet),
    ):
        write_header(path, header | {"__metadata__": header["__metadata__"] | {name: text}}, body)
        with pytest.raises(WeightsError, match=f"{path} is damaged.*{name}"):
            read(path)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
         "is a pointer of Git LFS, not the weights; run git lfs pull"),
        (b"\n\n<!DOCTYPE html>\n<html></html>", "is a web page, not weights; download it again"),
        (b"\xef\xbb\xbf<html><head>", "is a web page, not weights; download it again"),
    ],
)  # fmt: skip
def test_what_stands_where_weights_should_is_named(name, content, words, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_weights, read_header, lambda p: load_weights(build(SMALL), p)):
        assert error_of(read, path) == f"{path} {words}"


def test_a_damaged_safetensors_file_is_not_asked_for_its_arch(small, tmp_path):
    path = tmp_path / "x.safetensors"
    for content in (b"", b"no weights", bytes(100)):
        path.write_bytes(content)
        assert "x.safetensors is damaged" in (error_of(read_header, path) or "")
    torch.save(official_state_dict(small), path)
    assert "one of torch.save; name it .pt" in (error_of(read_header, path) or "")
    path.rename(tmp_path / "x.pt")
    load_weights(build(SMALL), tmp_path / "x.pt")


def test_quantised_weights_are_no_weights(small, tmp_path):
    state = official_state_dict(small)
    name = "backbone.input_stem.op_list.0.conv.weight"
    for dtype in (torch.float8_e4m3fn, torch.complex64, torch.int8):
        torch.save(state | {name: state[name].to(dtype)}, tmp_path / "x.pt")
        with pytest.raises(WeightsError, match=f"is {dtype}, not torch.float32") as caught:
            load_weights(build(SMALL), tmp_path / "x.pt")
        assert str(caught.value).endswith(" weights cannot be used; give the float ones")
        assert ("Quantised" in str(caught.value)) is not dtype.is_complex


def test_a_full_disk_leaves_the_file_as_it_was(saved, monkeypatch, small):
    before = saved.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*m.safetensors: No space left"):
        save_weights(small, saved, seed=4)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
