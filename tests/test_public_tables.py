"""Readers of public tables, on rows of the real files, against the counts that those publish."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest

from predictors.public_tables import read_public_tables
from results.errors import PredictorError

OFA = """\
Sub-network,Date,Model Parameters,Latency (ms),MACs,Top-1 Acc (%)
"{'wid': None, 'ks': [5, 7, 5, 5, 3, 3, 3, 7, 5, 5, 3, 7, 7, 3, 3, 3, 5, 5, 5, 5], 'e': [4, 3, 4, 4, 4, 6, 3, 4, 4, 3, 4, 3, 3, 6, 6, 6, 4, 3, 4, 4], 'd': [2, 3, 2, 4, 3], 'r': [224]}",2022-11-01,5029656,0,255502624,75.462
"{'wid': None, 'ks': [7, 5, 5, 5, 5, 7, 7, 3, 7, 5, 5, 7, 5, 7, 5, 5, 5, 7, 3, 3], 'e': [4, 3, 4, 4, 4, 4, 4, 4, 4, 4, 3, 6, 6, 3, 3, 6, 3, 3, 6, 4], 'd': [2, 2, 2, 3, 3], 'r': [224]}",2022-11-01,4572344,0,203671536,74.716
"{'wid': None, 'ks': [5, 3, 3, 5, 7, 7, 5, 3, 3, 7, 5, 5, 3, 5, 5, 3, 5, 7, 3, 3], 'e': [3, 6, 4, 3, 4, 6, 3, 4, 4, 4, 4, 4, 4, 4, 4, 6, 3, 4, 4, 6], 'd': [3, 2, 4, 3, 4], 'r': [224]}",2022-11-01,5327528,0,268040976,75.884
"""  # noqa: E501
OFA_MACS = (255502624, 203671536, 268040976)
MR_COLUMNS = ["in1", "in2", *(f"e{n}" for n in range(2, 26)), "last", "gmacs", "params_m", "seg"]
MR = """\
16,16,1,1,16,4,4,3,32,16,2,1,2,2,32,64,32,3,2,2,3,1,112,112,128,64,80,2.908400082,8.468034,75.0
24,32,1,1,56,1,1,2,8,8,1,1,1,2,32,32,40,1,1,2,2,1,56,24,64,24,56,0.219516706,0.539914,60.98
64,32,1,1,16,3,1,4,48,96,2,4,3,4,64,16,96,3,4,1,2,4,32,96,96,32,32,2.15243941,7.519954,76.52
"""
TIMM = """\
source,cls,name,recipe,resolution,top1,extra_data,macs_g,macs4_g,macs8_g,macs16_g,macs32_g,conv4,conv8,conv16,conv32,dw4,dw8,dw16,dw32,lin4,lin8,lin16,lin32,dwk4,dwk8,dwk16,dwk32
timm,EfficientNet,efficientnet_b5,sw_in12k_ft_in1k,448,85.894,1,9.404,1.2807,0.88104,3.2151,3.6229,0,0,0,0,5,5,14,12,0,0,0,0,3,5,4,4.5
timm,EfficientNet,efficientnet_b4,ra2_in1k,384,83.468,0,4.4095,0.49855,0.39736,1.6316,1.6143,0,0,0,0,4,4,12,10,0,0,0,0,3,5,4,4.6
timm,EfficientNet,efficientnet_b4,ra2_in1k,320,82.658,0,3.0637,0.34621,0.27594,1.1331,1.1211,0,0,0,0,4,4,12,10,0,0,0,0,3,5,4,4.6
timm,EfficientNet,efficientnet_b3,ra2_in1k,320,82.296,0,1.9612,0.25651,0.15606,0.6887,0.68632,0,0,0,0,3,3,10,8,0,0,0,0,3,5,4,4.5
timm,EfficientNet,efficientnet_b1,ra4_e3600_r240_in1k,288,81.444,0,0.94011,0.11944,0.08989,0.30655,0.3472,0,0,0,0,3,3,8,7,0,0,0,0,3,5,4,4.4
timm,EfficientVit,efficientvit_b1,r224_in1k,224,79.39,0,0.52,0.1,0.1,0.1,0.1,0,0,0,0,3,3,8,7,0,0,0,0,3,5,4,4.4
keras,EfficientNet,efficientnet_b4,ra2_in1k,384,83.468,0,,,,,,,,,,,,,,,,,,,,,
"""


def accel_nasbench(changes=({}, {"block3_se": True, "block3_l": 3}, {"block5_k": 5})):
    """An archive as Accel-NASBench's, of networks that differ from one in some choices."""
    plain = {f"block{b}_{name}": value for b in range(7) for name, value in
             {"e": 4, "k": 3, "l": 2, "se": False}.items()}  # fmt: skip
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for number, change in enumerate(changes):
            record = {"architecture": plain | change, "metrics": {"val_top1": 60.0 + number}}
            text = json.dumps(record).encode()
            member = tarfile.TarInfo(f"./anb_dataset_jsons/result_{number}.json")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return packed.getvalue()


def write_tables(folder):
    """All four tables, of three networks each."""
    folder.mkdir(exist_ok=True)
    (folder / "mbnv3w10_a.csv").write_text(OFA)
    (folder / "mbnv3w10_b.csv").write_text(OFA.replace("75.462", "75.400"))
    mr = ",".join(MR_COLUMNS) + "\n" + MR
    (folder / "nasbench_mr.csv.gz").write_bytes(gzip.compress(mr.encode()))
    (folder / "imagenet_published_architectures.csv.gz").write_bytes(gzip.compress(TIMM.encode()))
    (folder / "accel_nasbench_dataset_jsons.tar.gz").write_bytes(accel_nasbench())


@pytest.fixture
def tables(tmp_path):
    write_tables(tmp_path)
    return tmp_path


def test_macs_of_once_for_all_are_those_published_less_the_head(tables):
    table = read_public_tables(tables)["once_for_all"]
    assert table.value.tolist() == pytest.approx([75.431, 74.716, 75.884])  # of two files
    # The head and squeeze-and-excitation are the same few percent of all.
    missing = np.array(OFA_MACS) - table.macs.sum(axis=1)
    assert np.all((missing > 8e6) & (missing < 14e6))
    assert table.depth.tolist() == [14, 12, 16]
    assert table.kernel[0, 0] == pytest.approx((np.log(5 / 3) + np.log(7 / 3)) / 2)


def test_macs_of_nas_bench_mr_are_in_proportion_to_the_published(tables):
    table = read_public_tables(tables)["nasbench_mr"]
    published = np.array([2.908400082, 0.219516706, 2.15243941]) * 1e9  # of another picture size
    shares = table.macs.sum(axis=1) / published
    assert shares.max() / shares.min() < 1.5
    assert table.macs[:, 0].tolist() == [0, 0, 0]
    assert table.depth[1] == 1 + (1 + 2) + (1 + 1 + 2) + (1 + 2 + 2 + 1)


def test_accel_nasbench_counts_blocks_kernels_and_excitation(tables):
    table = read_public_tables(tables)["accel_nasbench"]
    plain, deeper, wider = range(3)
    assert table.depth.tolist() == [14, 15, 14]
    change = table.macs[deeper] - table.macs[plain]
    hidden, side = 4 * 80, 14  # one more inverted residual of 80 channels at stride 16
    assert change.tolist() == [0, 0, 0, (2 * 80 + 9) * hidden * side**2, 0]
    assert table.controls[deeper].tolist() == [0, 0, 0, 3, 0]
    assert table.kernel[wider].tolist() == pytest.approx([0, 0, 0, np.log(5 / 3) / 2], abs=1e-9)


def test_of_timm_only_groups_of_three_without_extra_data_count(tables):
    table = read_public_tables(tables)["timm"]
    assert table.value.tolist() == [83.468, 82.658, 82.296]  # one family and recipe; not ours
    assert table.macs[0].sum() == pytest.approx(4.4095e9)
    assert set(table.groups.tolist()) == {0}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("mbnv3w10_a.csv", OFA.replace("'ks': [5, 7,", "'ks': [7,"), "Once-for-All"),
        ("mbnv3w10_a.csv", OFA.replace("{'wid'", "__import__('os') or {'wid'"), "Once-for-All"),
        ("mbnv3w10_a.csv", "a,b\n1,2\n", "Once-for-All"),
        ("nasbench_mr.csv.gz", b"no archive", "cannot read"),
        ("nasbench_mr.csv.gz", gzip.compress(MR.encode(), mtime=0)[:-30], "cannot read"),
        ("nasbench_mr.csv.gz", gzip.compress(b"seg\xff\xfe", mtime=0), "cannot read"),
        ("mbnv3w10_a.csv", b"\xff\xfe\x00", "cannot read"),
        (
            "imagenet_published_architectures.csv.gz",
            gzip.compress(TIMM.replace("0.49855", "many").encode(), mtime=0),
            "stands where a number should",
        ),
        (
            "imagenet_published_architectures.csv.gz",
            gzip.compress(TIMM.replace("0.49855", "inf").encode(), mtime=0),
            "'inf' stands where",
        ),
        ("accel_nasbench_dataset_jsons.tar.gz", b"no archive", "cannot read"),
        (
            "accel_nasbench_dataset_jsons.tar.gz",
            accel_nasbench([{"block0_e": "4"}]),
            "another layout",
        ),
    ],
)
def test_damaged_tables_are_one_line(tmp_path, name, text, told):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PredictorError, match=told) as caught:
        read_public_tables(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_tables_names_them(tmp_path):
    with pytest.raises(PredictorError, match=r"none of the public tables: mbnv3w10_\*.csv"):
        read_public_tables(tmp_path)
