"""Which class a folder of pictures is of: by name, by number, as text; what is said, refused."""

import json
import random
import shutil
import unicodedata
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from results.console import main
from results.errors import DataError, WeightsError
from supernet.arch import ClassificationHead
from supernet.evaluate import Evaluate
from supernet.extract import Extract
from supernet.model import build
from supernet.official import named_arch
from supernet.sharing.checkpoint import open_supernet, save_checkpoint
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from supernet.tasks.choose import training_task
from supernet.tasks.class_order import AS_TRAINED, by_name, in_order
from supernet.tasks.options import TaskOptions
from supernet.train import Train
from supernet.training.plan import plan_training
from supernet.weights.files import save_weights
from supernet.weights.header import classes_text, read_header

FROZEN = ("resolution=64", "stage3.mixer=none", "stage4.mixer=none")
QUICK = Train(
    steps=1,
    batch_size=4,
    workers=0,
    augment="plain",
    recalibration_images=4,
    space="tiny",
    freeze=FROZEN,
    random_subnets=0,
    quiet=True,
)


def fill(folder, counts, side=32):
    """One colour a class folder, `counts` pictures in each."""
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.full((side, side, 3), (number * 37) % 256, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def always(path, answer, num_classes, **metadata):
    """Weights of a network that says class `answer` of whatever it sees."""
    torch.manual_seed(0)
    arch = named_arch("b0", resolution=(32, 32), num_classes=num_classes)
    model = build(arch).eval()
    layer = next(m for n, m in model.named_modules() if n.endswith("classifier.linear"))
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.bias[answer] = 10
    save_weights(model, path, **metadata)
    return path


@pytest.fixture
def evaluate(capsys):
    def evaluate(weights, data, *flags):
        arguments = ["--weights", weights, "--data", data, "--workers", "0", "--json", *flags]
        main(Evaluate, "supernet.evaluate", list(map(str, arguments)))
        return json.loads(capsys.readouterr().out)

    return evaluate


def shares(counts):
    total = sum(counts.values())
    return {name: 100 * count / total for name, count in counts.items()}


class TestOrder:
    @pytest.mark.parametrize("count", [2, 10, 11, 12, 101, 1000])
    def test_integers_are_sorted_by_number_and_it_is_said_where_that_matters(self, count, tmp_path):
        names = [str(i) for i in range(count)]
        random.Random(0).shuffle(names)
        found, notes = in_order(names, None, tmp_path)
        assert found == [str(i) for i in range(count)]
        assert len(notes) == (count > 10)
        if notes:
            assert "--class-order text" in notes[0]
            assert "class 2 is '2'" in notes[0]

    def test_text_is_the_way_back_and_is_not_remarked_on(self, tmp_path):
        names = [str(i) for i in range(12)]
        assert in_order(names, "text", tmp_path) == (sorted(names), ())
        assert in_order(names, "number", tmp_path)[1] == ()

    def test_zero_padded_integers_keep_their_order_in_silence(self, tmp_path):
        names = [f"{i:03}" for i in range(120)]
        assert in_order(names[::-1], None, tmp_path) == (names, ())
        mixed = [*(f"{i:02}" for i in range(100)), "100", "101"]
        assert in_order(mixed[::-1], None, tmp_path)[0] == mixed

    def test_numbers_that_are_not_those_of_classes_are_remarked_on(self, tmp_path):
        _, notes = in_order([str(i) for i in range(1, 6)], None, tmp_path)
        assert notes == (
            "class folders are counted in order, whatever their numbers: '1' is class 0",
        )
        _, notes = in_order(["0", "1", "3"], None, tmp_path)
        assert "'3' is class 2" in notes[0]

    def test_two_spellings_of_a_number_are_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"'1' and '01' .* --class-order text"):
            in_order(["1", "01", "2"], None, tmp_path)
        assert in_order(["1", "01", "2"], "text", tmp_path)[0] == ["01", "1", "2"]

    def test_mixed_names_stay_sorted_as_text(self, tmp_path):
        names = [f"class_{i}" for i in (1, 2, 10)]
        found, notes = in_order(names, None, tmp_path)
        assert found == ["class_1", "class_10", "class_2"]
        assert "class 1 is 'class_10'" in notes[0]
        assert "--class-order number" in notes[0]
        assert in_order(names, "number", tmp_path) == (names, ())
        for plain in (["b", "a"], ["n01440764", "n01443537"], ["1", "x"], ["Zebra", "ant"], []):
            assert in_order(plain, None, tmp_path) == (sorted(plain), ())

    def test_weights_of_older_trainings_stay_sorted_as_text(self, tmp_path):
        names = [str(i) for i in range(11)]
        found, notes = in_order(names, AS_TRAINED, tmp_path)
        assert found == sorted(names)
        assert "as in the training of the weights" in notes[0]
        assert "--class-order number" in notes[0]


class TestNames:
    def test_folders_are_told_by_name_in_any_order(self, tmp_path):
        classes = ["dog", "cat", "ant"]
        assert by_name(["ant", "cat", "dog"], classes, tmp_path) == ([2, 1, 0], ())

    def test_some_classes_may_lack_a_folder(self, tmp_path):
        labels, notes = by_name(["c"], ["a", "b", "c"], tmp_path)
        assert labels == [2]
        assert notes == (f"2 of 3 classes have no folder in {tmp_path}: 'a', 'b'",)

    def test_an_unknown_folder_names_the_nearest(self, tmp_path):
        with pytest.raises(DataError, match=r"kat is no class of the weights; did you mean 'cat'"):
            by_name(["dog", "kat"], ["cat", "dog"], tmp_path)

    def test_unicode_is_compared_by_meaning(self, tmp_path):
        classes = [unicodedata.normalize("NFC", name) for name in ("café", "thé")]
        folders = [unicodedata.normalize("NFD", name) for name in ("thé", "café")]
        assert folders[0] != classes[1]
        assert by_name(folders, classes, tmp_path)[0] == [1, 0]

    def test_integers_are_compared_by_value(self, tmp_path):
        classes = sorted(str(i) for i in range(12))  # as an older training had them
        folders = [f"{i:02}" for i in range(12)]
        labels, _ = by_name(folders, classes, tmp_path)
        assert [int(classes[label]) for label in labels] == list(range(12))
        with pytest.raises(DataError, match="both of class '1'"):
            by_name(["1", "01"], classes, tmp_path)
        with pytest.raises(DataError, match="12 is no class"):
            by_name(["12", "01"], classes, tmp_path)

    def test_numbers_of_named_classes(self, tmp_path):
        labels, notes = by_name(["1", "0"], ["cat", "dog"], tmp_path)
        assert labels == [1, 0]
        assert "'0' is 'cat'" in notes[0]
        with pytest.raises(DataError, match="is no class of the weights"):
            by_name(["1", "2"], ["cat", "dog"], tmp_path)

    def test_names_survive_a_file(self, tmp_path):
        names = ("b", "a", "\udce9", "ü\n", '"')
        path = always(tmp_path / "w.safetensors", 0, 5, **classes_text(names))
        found = read_header(path).classes
        assert found[:2] + found[3:] == names[:2] + names[3:]
        assert by_name(["\udce9"], found, tmp_path)[0] == [2]
        assert read_header(always(tmp_path / "w.safetensors", 0, 5)).classes == ()
        for damaged in ("cat,dog", '["a", 1]', '{"a": 1}', '["a", "a"]', "[" * 10_000):
            always(tmp_path / "w.safetensors", 0, 5, classes=damaged)
            with pytest.raises(WeightsError, match="damaged: its classes"):
                read_header(tmp_path / "w.safetensors")

    def test_another_programs_metadata_is_left_alone(self, tmp_path):
        from safetensors.torch import save_file

        path = tmp_path / "w.safetensors"
        save_file({"x": torch.zeros(1)}, path, metadata={"classes": "cat,dog"})
        assert read_header(path).classes == ()


class TestEvaluation:
    COUNTS: ClassVar = {**dict.fromkeys(map(str, range(12)), 1), "2": 5}

    def test_numbers(self, tmp_path, evaluate, capsys):
        """The network says class 2, of which there are 5 of 16 pictures."""
        folder = fill(tmp_path / "data" / "val", self.COUNTS).parent
        weights = always(tmp_path / "w.safetensors", 2, 12)
        found = evaluate(weights, folder)
        assert found["metrics"]["top1"] == pytest.approx(100 * 5 / 16)
        assert len(found["notes"]) == 1
        old = evaluate(weights, folder, "--class-order", "text")
        assert old["metrics"]["top1"] == pytest.approx(100 * 1 / 16)  # "10"
        assert "notes" not in old
        flags = ["--weights", weights, "--data", folder, "--workers", 0]
        main(Evaluate, "supernet.evaluate", list(map(str, flags)))
        assert capsys.readouterr().out.count("--class-order text") == 1

    def test_names_in_the_file_count_more_than_any_order(self, tmp_path, evaluate):
        counts = {"ant": 1, "bee": 2, "cat": 3, "dog": 4}
        names = ("dog", "ant", "cat", "bee")
        weights = always(tmp_path / "w.safetensors", 3, 4, **classes_text(names))
        found = evaluate(weights, fill(tmp_path / "data", counts))
        assert found["metrics"]["top1"] == pytest.approx(shares(counts)["bee"])
        assert "notes" not in found
        part = {"bee": 2, "dog": 4}
        found = evaluate(weights, fill(tmp_path / "part", part))
        assert found["metrics"]["top1"] == pytest.approx(shares(part)["bee"])
        assert "2 of 4 classes have no folder" in found["notes"][0]

    def test_what_is_no_class_is_refused(self, tmp_path, fails):
        weights = always(tmp_path / "w.safetensors", 0, 2, **classes_text(["cat", "dog"]))
        flags = ["--weights", weights, "--workers", 0, "--data"]
        folder = fill(tmp_path / "data", {"cat": 1, "dgo": 1})
        said = fails(Evaluate, "supernet.evaluate", *flags, folder)
        assert "dgo is no class of the weights; did you mean 'dog'?" in said
        folder = fill(tmp_path / "more", {"cat": 1, "dog": 1, "cow": 1})
        said = fails(Evaluate, "supernet.evaluate", *flags, folder)
        assert "holds 3 class folders, the network tells 2 classes apart" in said

    def test_counts_must_agree_where_no_names_are(self, tmp_path, fails):
        weights = always(tmp_path / "w.safetensors", 0, 12)
        folder = fill(tmp_path / "data", dict.fromkeys(map(str, range(1, 12)), 1))
        said = fails(Evaluate, "supernet.evaluate", "--weights", weights, "--data", folder)
        assert "holds 11 class folders, the network tells 12 classes apart" in said
        said = fails(Evaluate, "supernet.evaluate", "--weights", weights, "--class-order", "nummer")
        assert "no class order 'nummer'; did you mean 'number'?" in said

    def test_older_weights_are_evaluated_as_they_were_trained(self, tmp_path, evaluate):
        """Trainings sorted folders as text before they recorded names."""
        folder = fill(tmp_path / "data" / "val", self.COUNTS).parent
        weights = always(tmp_path / "w.safetensors", 4, 12, steps=5)  # "2" is the fifth
        found = evaluate(weights, folder)
        assert found["metrics"]["top1"] == pytest.approx(100 * 5 / 16)
        assert "--class-order number" in found["notes"][0]

    def test_own_classes_are_not_shown_embedded_ones(self, tmp_path, fails):
        names = [f"class {i}" for i in range(12)]
        weights = always(tmp_path / "w.safetensors", 0, 12, **classes_text(names), steps=5)
        said = fails(Evaluate, "supernet.evaluate", "--weights", weights, "--limit", 1)
        assert "the weights know the classes 'class 0'" in said
        assert "give --data DIR" in said

    def test_a_supernets_pictures_may_lack_a_class_too(self, tmp_path):
        fill(tmp_path / "train", {"a": 1, "b": 1, "c": 1})
        fill(tmp_path / "val", {"b": 1, "c": 1})
        with pytest.raises(DataError, match="class 'a' is not in both train/ and val/"):
            training_task(TaskOptions("classification", data=tmp_path))
        fill(tmp_path / "val", {"bat": 1, "a": 1})  # would shift all labels after it
        with pytest.raises(DataError, match="holds 4 class folders, the network tells 3 classes"):
            training_task(TaskOptions("classification", data=tmp_path, classes=("c", "b", "a")))
        shutil.rmtree(tmp_path / "val" / "bat")
        shutil.rmtree(tmp_path / "val" / "a")
        task: Any = training_task(
            TaskOptions("classification", data=tmp_path, classes=("c", "b", "a"))
        )
        assert [label for _, label in task.source.held_out_files] == [0, 1]
        assert [path.parent.name for path, _ in task.source.held_out_files] == ["c", "b"]
        assert "1 of 3 classes has no folder" in task.source.check_labels()[0]


class TestTraining:
    COUNTS: ClassVar = dict.fromkeys(map(str, range(11)), 1)

    @pytest.fixture
    def folder(self, tmp_path):
        for split in ("train", "val"):
            fill(tmp_path / "data" / split, self.COUNTS, side=64)
        return tmp_path / "data"

    def test_names_go_from_training_through_extraction_to_evaluation(
        self, folder, tmp_path, capsys
    ):
        run = tmp_path / "run"
        train = replace(QUICK, quiet=False, data=folder, out=run)
        train.run()
        said = capsys.readouterr()
        assert said.err.count("--class-order text") == 1
        assert said.out.count("--class-order text") == 1
        names = tuple(map(str, range(11)))
        model = run / "model.safetensors"
        assert read_header(model).classes == names
        assert json.loads((run / "run.json").read_text())["settings"]["class_order"] is None
        arch, out = tmp_path / "a.json", tmp_path / "one.safetensors"
        arch.write_text(open_supernet(model).largest[0].to_json())
        Extract(
            model, str(arch), out, data=folder, recalibration_images=2, workers=0, quiet=True
        ).run()
        assert read_header(out).classes == names
        (folder / "val" / "10").rename(folder / "val" / "ten")
        with pytest.raises(DataError, match="ten is no class of the weights"):
            Evaluate(data=folder, weights=out, workers=0, quiet=True).run()

    def test_the_order_that_is_asked_for_is_recorded(self, folder, tmp_path):
        run = tmp_path / "run"
        replace(QUICK, class_order="text", data=folder, out=run).run()
        assert read_header(run / "model.safetensors").classes == tuple(sorted(self.COUNTS))
        record = json.loads((run / "run.json").read_text())
        assert record["settings"]["class_order"] == "text"
        assert record["sources"]["classes"] == sorted(self.COUNTS)

    def test_an_older_run_goes_on_as_it_was_begun(self, folder, tmp_path):
        run = tmp_path / "run"
        replace(QUICK, class_order="text", data=folder, out=run).run()
        record = json.loads((run / "run.json").read_text())
        del record["settings"]["class_order"]
        del record["sources"]["classes"], record["sources"]["resolutions"]
        (run / "run.json").write_text(json.dumps(record))
        Train(resume=run, steps=2, quiet=True).run()
        assert read_header(run / "model.safetensors").classes == tuple(sorted(self.COUNTS))

    def test_classes_keep_the_order_of_first_weights(self, folder, tmp_path):
        first, run = tmp_path / "first.safetensors", tmp_path / "run"
        names = [str(i) for i in reversed(range(11))]
        supernet = Supernet(get_space("tiny", freeze=FROZEN, num_classes=11))
        save_checkpoint(first, supernet, metadata=classes_text(names))
        replace(QUICK, init=first, checkpoint_every=1, data=folder, out=run).run()
        assert read_header(run / "model.safetensors").classes == tuple(names)
        first.unlink()  # a run that goes on does not read it again
        Train(resume=run, steps=2, quiet=True).run()
        assert read_header(run / "model.safetensors").classes == tuple(names)

    def test_older_first_weights_and_teachers_have_their_classes_in_the_order_of_text(
        self, folder, tmp_path
    ):
        """Before names were recorded: the labels must be those that they know."""
        old = tmp_path / "old.safetensors"
        arch = get_space("tiny", freeze=FROZEN, num_classes=11).sample(random.Random(0))
        save_weights(build(arch), old, steps="5")
        for flag in ("teacher", "init"):
            task = plan_training(replace(QUICK, data=folder, **{flag: old})).task
            assert task.classes == tuple(sorted(self.COUNTS))
            assert "as in the training of the weights" in task.source.check_labels()[0]

    def test_a_teacher_of_other_classes_is_refused(self, folder, tmp_path):
        teacher, run = tmp_path / "teacher.safetensors", tmp_path / "run"
        arch = get_space("tiny", freeze=FROZEN, num_classes=11).sample(random.Random(0))
        assert isinstance(arch.head, ClassificationHead)
        names = [str(i) for i in reversed(range(11))]
        save_weights(build(arch), teacher, **classes_text(names))
        replace(QUICK, teacher=teacher, data=folder, out=run).run()
        assert read_header(run / "model.safetensors").classes == tuple(names)
        save_weights(build(arch), teacher, **classes_text([f"x{name}" for name in names]))
        with pytest.raises(WeightsError, match="knows the classes 'x10'"):
            replace(QUICK, teacher=teacher, data=folder).run()
        assert read_header(teacher).arch == arch


class TestSpelling:
    NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))

    def test_one_name_composed_in_two_ways_is_one_class(self, tmp_path):
        folder = fill(tmp_path, {self.NFC: 1, self.NFD: 1, "b": 1})
        with pytest.raises(DataError, match=r"'cafe\\u0301' and 'caf\\xe9' of .* are one name"):
            training_task(TaskOptions("classification", data=folder))
        with pytest.raises(DataError, match="are both of class"):
            by_name([self.NFC, self.NFD], ["b", "café"], tmp_path)

    @pytest.mark.parametrize(
        "names", [("Cat", "cat"), ("cat", "CAT"), ("a b", "a  b"), ("\uff11", "1")]
    )
    def test_names_that_are_spelt_alike_are_said(self, tmp_path, names):
        found, notes = in_order([*names, "dog"], "text", tmp_path)
        assert found == sorted([*names, "dog"])
        (note,) = notes
        assert note.startswith("class folders ")
        assert "though they are spelt alike" in note
        assert in_order(["cat", "cats", "cät"], "text", tmp_path)[1] == ()

    @pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
    def test_splits_may_compose_names_in_two_ways(self, tmp_path, forms):
        """Sorted as text é comes behind z, and e with an accent before f."""
        for split, form in zip(("train", "val"), forms, strict=True):
            names = (unicodedata.normalize(form, name) for name in ("é", "f", "z"))
            fill(tmp_path / split, dict.fromkeys(names, 1))
        task: Any = training_task(TaskOptions("classification", data=tmp_path))
        labels = {
            unicodedata.normalize("NFC", path.parent.name): label
            for path, label in task.source.files
        }
        assert sorted(labels.values()) == [0, 1, 2]
        for path, label in task.source.held_out_files:
            assert labels[unicodedata.normalize("NFC", path.parent.name)] == label

    def test_a_class_of_one_split_names_the_nearest(self, tmp_path):
        fill(tmp_path / "train", {"Cat": 1, "dog": 1})
        fill(tmp_path / "val", {"cat": 1, "dog": 1})
        with pytest.raises(DataError, match=r"class 'Cat' is not in both .*; did you mean 'cat'\?"):
            training_task(TaskOptions("classification", data=tmp_path))
