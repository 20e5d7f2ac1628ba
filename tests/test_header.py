"""What a weights file tells, and who makes use of it: models, evaluation, extraction, training."""

import json
from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest
import torch

from results.errors import ArchError, DataError, WeightsError
from supernet.arch import ClassificationHead, Stage, Stem
from supernet.evaluate import Evaluate
from supernet.evaluation.extraction import extract
from supernet.evaluation.options import EvaluationOptions, ExtractionOptions
from supernet.evaluation.run import evaluate
from supernet.extract import Extract
from supernet.model import build, create_model, model_arch
from supernet.official import BACKBONES, official_arch
from supernet.sharing.checkpoint import save_checkpoint
from supernet.sharing.extremes import largest_of, smallest_of
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from supernet.training.options import TrainingOptions
from supernet.training.run import train
from supernet.weights.files import official_state_dict, save_weights
from supernet.weights.header import HeldOutFigure, WeightsHeader, read_header
from supernet.weights.preprocessing import IMAGENET_MEAN, Preprocessing, preprocessing_of
from supernet.weights.tensors import read_tensors, write_tensors

SMALL = replace(
    official_arch("b0"),
    resolution=(64, 64),
    stem=Stem(8, 1),
    stages=tuple(Stage(width, 1, 1) for width in (8, 8, 16, 16)),
    head=ClassificationHead((16, 16), num_classes=12),
)
OWN = Preprocessing((0.5, 0.4, 0.3), (0.25, 0.5, 1.0), "bilinear", 0.9, "crop")
TOLD = WeightsHeader(
    resolutions=((64, 64), (96, 192)),
    classes=("cat", "dog"),
    preprocessing=OWN,
    steps=7,
    seed=3,
    num_train=40,
    accuracy=HeldOutFigure(metric="top1", value=12.5, stderr=1.5, n=16, dataset="shapes"),
)
SPACE = get_space("tiny", num_classes=12).at_resolutions([(32, 32), (64, 64)])
FEW: dict[str, Any] = {"limit": 8, "recalibration_images": 16, "workers": 0}


def b0(tmp_path, header=TOLD, **changes):
    """A file of B0 with 10 classes, and its path."""
    path = tmp_path / "b0.safetensors"
    model = create_model("efficientvit_b0", num_classes=10, **changes)
    save_weights(model, path, **header.to_metadata())
    return path


class TestReading:
    def test_all_that_is_written_is_read(self, tmp_path):
        path = tmp_path / "w.safetensors"
        save_weights(build(SMALL), path, **TOLD.to_metadata())
        expected = replace(TOLD, arch=SMALL, norm_eps=1e-5, is_trained_here=True)
        assert read_header(path) == expected
        untold = {f.name for f in fields(WeightsHeader) if not getattr(expected, f.name)}
        # which are a supernet's, and of a subnet that was taken out of one
        assert untold == {"space", "kernel_transform", "extraction"}

    def test_a_supernet_s(self, tmp_path):
        path = tmp_path / "s.safetensors"
        supernet = Supernet(get_space("tiny"), kernel_transform=True)
        save_checkpoint(path, supernet, metadata=TOLD.to_metadata())
        header = read_header(path)
        assert (header.kind, header.arch, header.kernel_transform) == ("supernet", None, True)
        assert header.space == get_space("tiny").at_resolutions(TOLD.resolutions)
        assert header.accuracy == TOLD.accuracy

    def test_older_and_foreign_files_tell_less(self, tmp_path):
        model, path = build(SMALL), tmp_path / "w.safetensors"
        save_weights(model, path)
        assert read_header(path) == WeightsHeader(arch=SMALL, norm_eps=1e-5)
        torch.save(official_state_dict(model), tmp_path / "w.pt")
        assert read_header(tmp_path / "w.pt") == WeightsHeader()
        theirs = {"classes": "cat,dog", "seed": "many", "resolutions": "low"}
        write_tensors(tmp_path / "t.safetensors", model.state_dict(), theirs)
        assert read_header(tmp_path / "t.safetensors") == WeightsHeader()

    def test_metadata_of_users_is_theirs(self, tmp_path):
        """`save_weights` has always taken any names but those of the file."""
        path = tmp_path / "w.safetensors"
        save_weights(build(SMALL), path, accuracy=0.91, preprocessing="mine", steps="many")
        header = read_header(path)
        assert (header.accuracy, header.preprocessing, header.steps) == (None, None, None)
        assert header.is_trained_here

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("picture_preprocessing", "{}"),
            ("picture_preprocessing", json.dumps({**vars(OWN), "std": [0, 1, 1]})),
            ("picture_preprocessing", json.dumps({**vars(OWN), "resize": "fold"})),
            ("held_out_accuracy", '{"metric": "top1", "value": 1e400, "n": 1, "dataset": "x"}'),
            ("held_out_accuracy", "12.5"),
            ("num_train", "many"),
            ("classes", "[1]"),
        ],
    )
    def test_what_is_damaged_is_named(self, name, text, tmp_path):
        path = tmp_path / "w.safetensors"
        save_weights(build(SMALL), path, **{name: text})
        with pytest.raises(WeightsError, match=f"w.safetensors is damaged.*its {name}"):
            read_header(path)

    def test_a_name_that_the_file_has_is_refused(self, tmp_path):
        for model, name in ((build(SMALL), "arch"), (Supernet(get_space("tiny")), "space")):
            with pytest.raises(WeightsError, match=f"metadata cannot be named '{name}'"):
                save_checkpoint(tmp_path / "x.safetensors", model, metadata={name: "x"})
        assert not list(tmp_path.iterdir())


class TestModels:
    def test_a_network_is_as_it_was_trained(self, tmp_path):
        cfg = create_model("efficientvit_b0", pretrained=b0(tmp_path)).default_cfg
        assert cfg == {
            "input_size": (3, 96, 192),
            "mean": OWN.mean,
            "std": OWN.std,
            "interpolation": "bilinear",
            "crop_pct": 0.9,
            "num_classes": 10,
        }

    def test_what_is_asked_for_goes_first(self, tmp_path):
        path = b0(tmp_path)
        for name, asked, size in (
            ("efficientvit_b0", 160, 160),
            ("efficientvit_b0.r256_in1k", None, 256),
        ):
            model = create_model(name, pretrained=path, resolution=asked)
            assert model.default_cfg["input_size"] == (3, size, size)

    def test_without_a_resolution_of_the_training_the_arch_s_counts(self, tmp_path):
        path = b0(tmp_path, WeightsHeader(), resolution=128)
        cfg = create_model("b0", pretrained=path).default_cfg
        assert cfg["input_size"] == (3, 128, 128)
        assert cfg["mean"] == IMAGENET_MEAN

    def test_a_backbone_for_another_task_keeps_that_task_s_resolution(self, tmp_path):
        with pytest.warns(UserWarning, match="stay at random"):
            model = create_model("efficientvit_seg_b0_cityscapes", pretrained=b0(tmp_path))
        assert model.arch.resolution == (1024, 2048)
        assert model.default_cfg["std"] == OWN.std  # what its weights have seen

    def test_a_segmentation_network_says_the_size_it_was_trained_at(self, tmp_path):
        path = tmp_path / "s.safetensors"
        name = "efficientvit_seg_b0_cityscapes"
        told = WeightsHeader(
            resolutions=((64, 64),), preprocessing=preprocessing_of(model_arch(name))
        )
        save_weights(create_model(name, num_classes=3), path, **told.to_metadata())
        cfg = create_model(name, pretrained=path).default_cfg
        assert (cfg["input_size"], cfg["num_classes"]) == ((3, 64, 64), 3)
        assert cfg["mean"] == IMAGENET_MEAN

    def test_features_are_prepared_for_like_the_whole_network(self, tmp_path):
        model = create_model("b0", pretrained=b0(tmp_path), features_only=True)
        assert model.default_cfg["std"] == OWN.std
        assert model.default_cfg["input_size"] == (3, 96, 192)

    def test_official_preparations(self):
        for name in BACKBONES:
            arch = model_arch(name)
            assert preprocessing_of(arch).resize == "pad" if "sam" in name else "crop"
        assert preprocessing_of(model_arch("sr_x2")).resize == "none"
        assert preprocessing_of(model_arch("seg_b1_ade20k")).resize == "fit"


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("header") / "s.safetensors"
    told = replace(TOLD, classes=(), resolutions=((32, 32), (64, 64)))
    save_checkpoint(path, Supernet(SPACE), metadata=told.to_metadata())
    return path


class TestFromPython:
    def test_a_network_is_evaluated_where_it_was_trained(self, tmp_path, capsys):
        path = tmp_path / "w.safetensors"
        told = WeightsHeader(resolutions=((32, 32),), steps=5)
        arch = replace(model_arch("b0"), head=ClassificationHead((1024, 1280), num_classes=12))
        torch.manual_seed(0)
        save_weights(build(arch), path, **told.to_metadata())
        options = EvaluationOptions(weights=path, limit=8, workers=0)
        answer = evaluate(options)
        assert (answer["resolution"], answer["n"]) == ("32", 8)
        by_name = evaluate(replace(options, arch="b0", num_classes=12))
        assert by_name["resolution"] == "32"
        assert by_name["metrics"] == answer["metrics"]
        assert evaluate(replace(options, resolution="64"))["resolution"] == "64"
        named = replace(options, arch="b0-r64", num_classes=12)
        assert evaluate(named)["resolution"] == "64"
        assert capsys.readouterr() == ("", "")

    def test_subnets(self, supernet, tmp_path, capsys):
        out = tmp_path / "rows.jsonl"
        options = EvaluationOptions(weights=supernet, out=out, **FEW)
        answer = evaluate(options)
        assert len(answer["rows"]) == 2 * len([*largest_of(SPACE), *smallest_of(SPACE)])
        assert [json.loads(line) for line in out.read_text().splitlines()] == answer["rows"]
        assert evaluate(options) == answer  # nothing is evaluated twice, all is told again
        assert capsys.readouterr() == ("", "")
        Evaluate(weights=supernet, out=out, json=True, **FEW).run()
        assert json.loads(capsys.readouterr().out) == answer

    def test_errors_are_those_of_the_command(self, supernet):
        with pytest.raises(WeightsError, match="name trained ones by --weights"):
            evaluate(EvaluationOptions())
        with pytest.raises(DataError, match="leave --dataset out"):
            evaluate(EvaluationOptions(weights=supernet, dataset="imagenet", **FEW))
        with pytest.raises(ArchError, match="name the arch to extract"):
            extract(ExtractionOptions(weights=supernet))

    def test_an_extracted_network_tells_what_its_supernet_told(self, supernet, tmp_path, capsys):
        out = tmp_path / "x.safetensors"
        arch = tmp_path / "arch.json"
        arch.write_text(smallest_of(SPACE)[0].to_json())
        options = ExtractionOptions(
            weights=supernet, arch=str(arch), out=out, recalibration_images=16, workers=0
        )
        answer = extract(options)
        assert capsys.readouterr() == ("", "")
        header = read_header(out)
        assert header.arch == smallest_of(SPACE)[0]
        assert header.resolutions == (header.arch.resolution,) == ((32, 32),)
        assert (header.steps, header.seed, header.num_train) == (7, 3, 40)
        assert header.preprocessing == replace(OWN, crop_pct=1.0)
        assert header.accuracy is None  # nobody has measured it
        assert header.is_trained_here
        Extract(**{f.name: getattr(options, f.name) for f in fields(options)}, json=True).run()
        assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(answer))

    def test_a_training_writes_it_with_what_it_reached(self, tmp_path):
        """With the same options to the same bytes; the answer has the hash of the file."""
        options = TrainingOptions(
            space="tiny", freeze=("stage3.mixer=none", "stage4.mixer=none"), resolution=("32",),
            steps=2, batch_size=4, num_train=40, random_subnets=0, workers=0, limit=8,
            recalibration_images=16, out=tmp_path / "a",
        )  # fmt: skip
        answer = train(options)
        model = tmp_path / "a" / "model.safetensors"
        header = read_header(model)
        row = answer["evaluations"][0]
        assert header.accuracy == HeldOutFigure(
            metric="top1", value=row["value"], stderr=row["stderr"], n=8, dataset="shapes"
        )
        assert (header.kind, header.steps, header.num_train) == ("supernet", 2, 40)
        assert header.resolutions == ((32, 32),)
        assert header.space is not None
        assert header.preprocessing == preprocessing_of(largest_of(header.space)[0])
        assert len(header.classes) == 12
        train(replace(options, out=tmp_path / "b"))
        assert (tmp_path / "b" / "model.safetensors").read_bytes() == model.read_bytes()
        assert (
            evaluate(EvaluationOptions(weights=model, **FEW))["weights_sha256"]
            == row["weights_sha256"]
        )

    @pytest.mark.parametrize("kind", ["network", "supernet"])
    def test_an_evaluation_says_what_the_training_reached(self, tmp_path, capsys, kind):
        path = tmp_path / "w.safetensors"
        model = build(SMALL) if kind == "network" else Supernet(SPACE)
        whose = "the largest subnet's " if kind == "supernet" else ""
        figure = "top1 12.50 ± 1.50 % at its end (shapes, pictures: 16)"
        training = {"steps": 7, "accuracy": msgspec.to_builtins(TOLD.accuracy)}
        accuracy = {"accuracy": training["accuracy"]}
        whole = replace(TOLD, classes=(), resolutions=((32, 32),))
        for header, told, line in (
            (whole, training, f"steps: 7; {whose}{figure}"),
            (replace(whole, steps=None), accuracy, whose + figure),
            (replace(whole, accuracy=None), {"steps": 7}, "steps: 7"),
            (replace(whole, steps=None, accuracy=None), None, None),
        ):
            save_checkpoint(path, model, metadata=header.to_metadata())
            answer = evaluate(EvaluationOptions(weights=path, **FEW))
            assert answer.get("training") == told
            capsys.readouterr()
            Evaluate(weights=path, **FEW).run()
            lines = [s for s in capsys.readouterr().out.splitlines() if s.startswith("  training ")]
            assert lines == ([f"  training   {line}"] if line else [])

    def test_weights_are_not_lost_where_the_last_evaluation_fails(self, tmp_path, monkeypatch):
        def fail(*_):
            raise DataError("no such picture")

        monkeypatch.setattr("supernet.training.run.evaluate_subnet", fail)
        options = TrainingOptions(
            arch="b0", resolution=("32",), steps=1, batch_size=2, num_train=40, workers=0,
            out=tmp_path / "a",
        )  # fmt: skip
        with pytest.raises(DataError, match="no such picture"):
            train(options)
        header = read_header(tmp_path / "a" / "model.safetensors")
        assert (header.steps, header.accuracy) == (1, None)
        assert read_tensors(tmp_path / "a" / "model.safetensors")[0]
