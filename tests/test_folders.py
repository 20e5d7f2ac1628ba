"""Walking folders of pictures: links, what systems leave there, suffixes, masks, odd files."""

import os
import signal
import socket
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from results.errors import DataError
from supernet.pictures import FORMATS, Normalisation, read_indices, read_rgb, stored_size
from supernet.tasks.annotated_pictures import AnnotatedPictures
from supernet.tasks.classification import ClassFolders, ClassificationTask, Preparation
from supernet.tasks.folders import (
    LOSSLESS,
    SUFFIXES,
    list_classes,
    list_folders,
    list_pictures,
    pair_masks,
    unused_masks,
)
from supernet.tasks.labelled_pictures import LabelledPictures
from supernet.tasks.options import TaskOptions
from supernet.tasks.pretrain import PretrainTask, list_pictures_of
from supernet.tasks.super_resolution import LargePictures
from tests.test_tasks import noise, save

HALVES = Normalisation((0.5,) * 3, (0.5,) * 3)


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in list_pictures(folder)]


def classes(folder, split="val"):
    return ClassFolders(folder, Preparation((8, 8), 1.0, HALVES), split=split)


@pytest.fixture
def three(tmp_path):
    for name in "abc":
        save(tmp_path / "val" / name / "0.png", noise(4, 4))
    return tmp_path / "val"


class TestLinks:
    @pytest.mark.parametrize("target", ["..", ".", "../..", "{root}"])
    @pytest.mark.parametrize("place", ["a/loop", "a/deep/loop", "loop"])
    def test_folders_above_are_not_walked_again(self, three, place, target):
        link = three / place
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target.format(root=three))
        found = classes(three.parent)
        assert [(path.name, label) for path, label in found.samples] == [
            ("0.png", 0),
            ("0.png", 1),
            ("0.png", 2),
        ]
        assert found.classes == ("a", "b", "c")
        assert names(three) == ["a/0.png", "b/0.png", "c/0.png"]

    def test_links_to_each_other_end(self, tmp_path):
        save(tmp_path / "x" / "1.png", noise(4, 4))
        (tmp_path / "x" / "to_y").symlink_to("../y")
        save(tmp_path / "y" / "2.png", noise(4, 4))
        (tmp_path / "y" / "to_x").symlink_to("../x")
        assert names(tmp_path) == ["x/1.png", "y/2.png"]
        assert names(tmp_path / "x") == ["x/1.png"[2:], "to_y/2.png"]

    def test_a_picture_is_listed_once_whatever_leads_to_it(self, tmp_path):
        save(tmp_path / "z" / "0.png", noise(4, 4))
        (tmp_path / "a.png").symlink_to("z/0.png")
        (tmp_path / "b.png").symlink_to("a.png")
        (tmp_path / "more").symlink_to("z")
        assert names(tmp_path) == ["z/0.png"]

    @pytest.mark.parametrize("link", ["a.png", "z.png"])
    def test_a_picture_elsewhere_is_listed_once_by_its_link_or_its_folders(self, tmp_path, link):
        for name in "01":
            save(tmp_path / "store" / f"{name}.png", noise(4, 4))
        data = tmp_path / "data"
        data.mkdir()
        (data / link).symlink_to("../store/0.png")
        (data / "more").symlink_to("../store")
        assert len(names(data)) == 2
        assert "more/1.png" in names(data)

    def test_links_out_of_the_folder_are_the_users(self, tmp_path):
        save(tmp_path / "store" / "n1" / "0.png", noise(4, 4))
        save(tmp_path / "store" / "1.png", noise(4, 4))
        data = tmp_path / "data" / "val"
        (data / "b").mkdir(parents=True)
        (data / "a").symlink_to(tmp_path / "store" / "n1")
        (data / "b" / "x.png").symlink_to(tmp_path / "store" / "1.png")
        assert [(path.name, label) for path, label in classes(data).samples] == [
            ("0.png", 0),
            ("x.png", 1),
        ]

    @pytest.mark.parametrize(
        ("link", "target"),
        [
            ("a/more", "../b"),
            ("a/x.png", "../b/0.png"),
            ("d", "b"),
            ("c/deep/y.png", "../../b/0.png"),
        ],
    )
    def test_one_picture_of_two_classes_is_refused(self, three, link, target):
        (three / link).parent.mkdir(exist_ok=True)
        (three / link).symlink_to(target)
        other = link.partition("/")[0]
        with pytest.raises(DataError, match=f"'[b{other}]', and a link makes it .*'[b{other}]'"):
            classes(three.parent)

    def test_two_links_to_one_folder_elsewhere_are_refused_as_classes(self, tmp_path):
        save(tmp_path / "store" / "0.png", noise(4, 4))
        (tmp_path / "val").mkdir()
        for name in "ab":
            (tmp_path / "val" / name).symlink_to(tmp_path / "store")
        with pytest.raises(DataError, match="remove the link"):
            classes(tmp_path)

    @pytest.mark.parametrize("target", ["nowhere", "{itself}", "../../nowhere/at/all"])
    @pytest.mark.parametrize("place", ["cat", "a/more", "a/x.png", "a/deep/x.JPG", "v1.2"])
    def test_what_a_dead_link_promises_is_not_left_out(self, three, place, target):
        link = three / place
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target.format(itself=link.name))
        for listed in (lambda: classes(three.parent), lambda: list_pictures_of(three)):
            with pytest.raises(DataError, match=rf"link .*val/{place} leads to .*, which is not"):
                listed()

    def test_dead_links_to_texts_and_hidden_ones_cost_nothing(self, three):
        for name in ("README.md", "a/labels.txt", ".#lock", "a/.lock"):
            (three / name).symlink_to("nowhere")
        assert len(classes(three.parent)) == 3

    def test_a_split_that_is_a_dead_link_is_not_taken_from_the_others(self, three):
        (three.parent / "train").symlink_to("nowhere")
        with pytest.raises(DataError, match=r"link .*train leads to nowhere"):
            classes(three.parent, "train")
        save(three / "images" / "0.png", noise(4, 4))
        save(three / "masks" / "0.png", np.ones((4, 4), np.uint8))
        (three / "images" / "val").symlink_to("nowhere")
        with pytest.raises(DataError, match=r"link .*images/val leads to nowhere"):
            AnnotatedPictures(three)


JUNK = ["@eaDir", "__MACOSX", "lost+found", "#recycle", "@Recycle", "$RECYCLE.BIN", ".git"]
JUNK += ["System Volume Information", ".ipynb_checkpoints", ".Trash-1000", "#snapshot"]
JUNK += ["@tmp", "@SynoResource", "@SynoEAStream", "@sharebin", "Network Trash Folder", "RECYCLER"]
JUNK += ["Temporary Items", "FOUND.000", "found.012", "~snapshot", "TheVolumeSettingsFolder"]


class TestWhatSystemsLeave:
    @pytest.mark.parametrize("name", JUNK)
    def test_is_neither_class_nor_picture(self, three, name):
        for place in (three, three / "a", three / "a" / "deep"):
            save(place / name / "0.png", noise(4, 4))
            save(place / name / "b" / "0.png", noise(4, 4))
        for path in ("a/._0.png", "a/Thumbs.db", "a/.DS_Store", "a/desktop.ini", "._b"):
            (three / path).write_text("")
        assert [path.name for path in list_folders(three)] == ["a", "b", "c"]
        for split in ("train", "val"):
            assert len(classes(three, split)) == 3
        assert len(classes(three.parent)) == 3
        assert len(list_pictures_of(three)) == len(LargePictures(three, 2)) == 3

    def test_folders_of_like_names_are_classes(self, tmp_path):
        names = ["recycler", "recycled", "found", "found.0001", "tmp", "temporary", "snapshot"]
        for name in names:
            save(tmp_path / name / "0.png", noise(4, 4))
        assert classes(tmp_path).classes == tuple(sorted(names))

    def test_beside_annotations_and_masks(self, tmp_path):
        save(tmp_path / "images" / "0.png", noise(8, 8))
        save(tmp_path / "images" / "@eaDir" / "0.png", noise(8, 8))
        save(tmp_path / "masks" / "0.png", np.ones((8, 8), np.uint8))
        save(tmp_path / "masks" / "@eaDir" / "9.png", np.ones((8, 8), np.uint8))
        found = AnnotatedPictures(tmp_path)
        assert [path.name for path, _ in found.samples] == ["0.png"]
        assert found.notes == ()


class TestOtherFormats:
    """Files beside pictures that are not read are counted, by every task."""

    @pytest.mark.parametrize("place", ["", "val", "Val"])
    def test_of_class_folders(self, tmp_path, place):
        for name in ("a/0.png", "b/0.png"):
            save(tmp_path / "x" / place / name, noise(4, 4))
        for name in (
            "a/1.HEIC",
            "a/2.heic",
            "a/more/3.heic",
            "b/4.CR2",
            "b/.5.heic",
            "b/@eaDir/x.y",
        ):
            path = tmp_path / "x" / place / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("")
        for name in ("notes.txt", "labels.csv", "LICENSE", "Thumbs.db"):
            (tmp_path / "x" / place / "a" / name).write_text("")
        data = classes(tmp_path / "x")
        assert len(data) == 2
        root = tmp_path / "x" / place
        assert data.notes[-1] == (
            f"4 files in {root} are of formats that are not read, *.heic, *.cr2; convert the "
            "pictures among them"
        )
        task = ClassificationTask(TaskOptions("classification", root))
        assert task.source.check_labels() == data.notes[-1:]

    @pytest.mark.parametrize("split", ["", "val"])
    def test_of_masks_and_large_pictures(self, tmp_path, split):
        save(tmp_path / "images" / split / "0.png", noise(8, 8))
        save(tmp_path / "masks" / split / "0.png", np.ones((8, 8), np.uint8))
        (tmp_path / "images" / split / "1.heif").write_text("")
        for data in (
            AnnotatedPictures(tmp_path),
            LabelledPictures(tmp_path, (8, 8), 2, HALVES),
            LargePictures(tmp_path / "images", 2),
        ):
            (note,) = data.notes
            assert note.startswith(f"1 files in {tmp_path / 'images' / split}".rstrip("/"))
            assert "*.heif" in note

    def test_of_pretraining(self, tmp_path):
        for name in "ab":
            save(tmp_path / f"{name}.png", noise(8, 8))
        (tmp_path / "c.jxl").write_text("")
        task = PretrainTask(TaskOptions("pretrain", tmp_path))
        assert "*.jxl" in task.source.check_labels()[0]


class TestSuffixes:
    def test_are_those_of_pillows_formats(self):
        Image.init()
        registered = dict(Image.registered_extensions())
        left_out = {".avifs", ".pfm"}  # films; floating-point numbers
        expected = {s for s, kind in registered.items() if kind in FORMATS} - left_out
        assert expected <= set(SUFFIXES)
        optional = {".avif", ".webp", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"}
        assert set(SUFFIXES) - expected <= optional  # of what Pillow was built with
        assert set(LOSSLESS) <= set(SUFFIXES)

    @pytest.mark.parametrize("name", ["x.jfif", "x.JPE", "x.Png", "x.dib", "x.pgm", "x.JP2"])
    def test_pictures_are_found_and_read(self, tmp_path, name):
        path = save(tmp_path / "a" / name, Image.fromarray(noise(8, 8)))
        found = classes(tmp_path)
        assert [sample for sample, _ in found.samples] == [path]
        assert found[0][0].shape == (3, 8, 8)

    def test_a_class_without_a_picture_is_refused_everywhere(self, three):
        for name in ("x.heic", "y.heic", "notes.txt"):
            (three / "b" / name).write_text("")
        (three / "b" / "0.png").unlink()
        for opened in (lambda: classes(three.parent), lambda: classes(three.parent, "val")):
            with pytest.raises(
                DataError,
                match=r"val/b holds no pictures, but 2 files \*\.heic, which are not read",
            ):
                opened()
        assert list_classes(three, ["b"]) == {}

    def test_other_formats_are_not_opened_whatever_they_are_called(self, tmp_path):
        """Pillow would start Ghostscript for the first."""
        for kind in ("EPS", "PDF", "ICO"):
            path = tmp_path / f"{kind}.png"
            Image.fromarray(noise(16, 16)).save(path, kind)
            with pytest.raises(DataError, match=r"\.png: not a picture, or damaged"):
                read_rgb(path)


class TestMasks:
    def pairs(self, tmp_path, pictures, masks):
        for name in pictures:
            save(tmp_path / "images" / name, noise(4, 4))
        for name in masks:
            save(tmp_path / "masks" / name, np.zeros((4, 4), np.uint8))
        found = pair_masks(tmp_path / "images", tmp_path / "masks")
        return [str(mask.relative_to(tmp_path / "masks")) for _, mask in found]

    @pytest.mark.parametrize(
        ("pictures", "masks"),
        [
            (["0.jpg"], ["0.PNG"]),
            (["0.JPG"], ["0.png"]),
            (["IMG_1.JPG"], ["img_1.png"]),
            (["a/b.c.jpg"], ["A/b.c.tif"]),
            (["0.jfif", "1.png"], ["0.bmp", "1.TIFF"]),
            (["a.png", "A.png"], ["A.png", "a.png"]),
            (["x.jpg"], ["x.png", "x.jpg"]),  # a preview beside it
        ],
    )
    def test_are_found(self, tmp_path, pictures, masks):
        found = self.pairs(tmp_path, pictures, masks)
        assert sorted(set(found)) == sorted(m for m in masks if not m.endswith(".jpg"))
        stems = [Path(name).with_suffix("") for name in sorted(pictures)]
        assert [str(Path(name).with_suffix("")).lower() for name in found] == [
            str(stem).lower() for stem in stems
        ]

    @pytest.mark.parametrize(
        ("pictures", "masks", "words"),
        [
            (["0.jpg"], ["0.png", "0.bmp"], "two masks"),
            (["Ab.jpg"], ["ab.png", "AB.png"], "two masks"),
            (["0.jpg"], ["0.jpg"], r"0\.jpg is in a lossy format"),
            (["0.png"], ["0.webp"], "lossy"),
            (["a.jpg", "A.jpg"], ["a.png"], r"A\.jpg has no mask: .*A\.png is missing"),
        ],
    )
    def test_that_are_doubtful_are_refused(self, tmp_path, pictures, masks, words):
        with pytest.raises(DataError, match=words):
            self.pairs(tmp_path, pictures, masks)

    @pytest.mark.parametrize(
        ("picture", "masks", "similar"),
        [
            ("0.jpg", ["0_mask.png"], "0_mask.png"),
            ("a/IMG_1.jpg", ["a/mask_img_1.png", "a/img_11.png"], "mask_img_1.png"),
            ("0.jpg", ["10.png", "00_mask.png", "x/0_mask.png"], ""),
        ],
    )
    def test_of_a_similar_name_are_told_of(self, tmp_path, picture, masks, similar):
        with pytest.raises(DataError, match="is missing") as caught:
            self.pairs(tmp_path, [picture], masks)
        told = str(caught.value).partition(".png is missing")[2]
        assert told == (f"; there is {similar}: rename the masks as their pictures" * bool(similar))

    def test_that_are_links_to_one_file_are_each_of_their_picture(self, tmp_path):
        """An empty mask for several pictures, or a store where equal files are one."""
        for name in "01":
            save(tmp_path / "images" / f"{name}.png", noise(8, 8))
        save(tmp_path / "masks" / "0.png", np.eye(8, dtype=np.uint8))
        (tmp_path / "masks" / "1.png").symlink_to("0.png")
        pairs = pair_masks(tmp_path / "images", tmp_path / "masks")
        assert [mask.name for _, mask in pairs] == ["0.png", "1.png"]

    def test_with_negative_values_are_refused(self, tmp_path):
        save(tmp_path / "images" / "0.png", noise(8, 8))
        (tmp_path / "masks").mkdir()
        values = np.zeros((8, 8), np.int32)
        values[0] = -200
        values[1] = 1
        Image.fromarray(values).save(tmp_path / "masks" / "0.tif")
        data = LabelledPictures(tmp_path, (8, 8), 100, HALVES)
        for read in (data.check_labels, lambda: data[0]):
            with pytest.raises(DataError, match="holds label -200; store 255 for none"):
                read()

    def test_of_no_picture_are_said(self, tmp_path):
        self.pairs(tmp_path, ["0.jpg"], ["0.png", "1.png", "2.png"])
        pairs = pair_masks(tmp_path / "images", tmp_path / "masks")
        (line,) = unused_masks(pairs, tmp_path / "masks")
        assert line.startswith("2 masks in ")
        assert AnnotatedPictures(tmp_path).notes == (line,)

    def test_of_no_picture_are_said_of_classes_too(self, tmp_path):
        save(tmp_path / "images" / "0.png", noise(8, 8))
        for name in ("0", "1"):
            save(tmp_path / "masks" / f"{name}.png", np.eye(8, dtype=np.uint8))
        (line,) = LabelledPictures(tmp_path, (8, 8), 2, HALVES).check_labels()
        assert "1 masks in" in line
        assert "are of no picture" in line

    @pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
    def test_names_may_be_composed_in_two_ways(self, tmp_path, forms):
        picture, mask = (unicodedata.normalize(form, "é/Straße ü") for form in forms)
        save(tmp_path / "images" / f"{picture}.jpg", noise(4, 4))
        save(tmp_path / "masks" / f"{mask}.png", np.zeros((4, 4), np.uint8))
        ((_, found),) = pair_masks(tmp_path / "images", tmp_path / "masks")
        assert found == tmp_path / "masks" / f"{mask}.png"

    def test_the_very_same_name_counts_more(self, tmp_path):
        one, other = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
        for name in (one, other):
            save(tmp_path / "images" / f"{name}.jpg", noise(4, 4))
            save(tmp_path / "masks" / f"{name}.png", np.zeros((4, 4), np.uint8))
        pairs = pair_masks(tmp_path / "images", tmp_path / "masks")
        assert all(picture.stem == mask.stem for picture, mask in pairs)
        (tmp_path / "masks" / f"{other}.png").unlink()
        with pytest.raises(DataError, match="has no mask"):
            pair_masks(tmp_path / "images", tmp_path / "masks")

    def test_a_similar_name_is_told_however_it_is_composed(self, tmp_path):
        one, other = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
        save(tmp_path / "images" / f"{one}.jpg", noise(4, 4))
        save(tmp_path / "masks" / f"{other}_mask.png", np.zeros((4, 4), np.uint8))
        with pytest.raises(DataError, match=r"_mask\.png: rename the masks as their pictures"):
            pair_masks(tmp_path / "images", tmp_path / "masks")

    def test_a_jpeg_called_png_is_refused(self, tmp_path):
        path = tmp_path / "m.png"
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path, "JPEG")
        with pytest.raises(DataError, match="is a JPEG, which changes labels"):
            read_indices(path)


class TestOddFiles:
    @pytest.fixture(autouse=True)
    def no_hang(self):
        def late(*_):
            pytest.fail("it hangs")

        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(30)
        yield
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

    @pytest.fixture(params=["pipe", "socket", "folder", "device"])
    def odd(self, request, tmp_path):
        path = tmp_path / "x.png"
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "socket":
            server = socket.socket(socket.AF_UNIX)
            here = Path.cwd()
            os.chdir(tmp_path)  # names of sockets are short
            server.bind("x.png")
            os.chdir(here)
            server.close()
        elif request.param == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero")
        return path

    def test_end_in_one_line_and_do_not_hang(self, odd):
        for read in (read_rgb, read_indices):
            with pytest.raises(DataError, match=r"x\.png") as caught:
                read(odd)
            assert "\n" not in str(caught.value)
        if odd.is_dir():
            assert list_pictures(odd.parent) == []
        elif not odd.is_symlink():
            with pytest.raises(DataError, match=r"x\.png is no regular file; remove it"):
                list_pictures(odd.parent)

    def test_what_has_no_end_is_not_read_at_all(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "device.png").symlink_to("/dev/zero")
        for name in ("pipe.png", "device.png"):
            for read in (read_rgb, read_indices, stored_size):
                with pytest.raises(DataError, match=rf"{name}: it is no regular file"):
                    read(tmp_path / name)

    def test_the_bound_of_pixels_is_our_own_where_pillows_is_lifted(self, tmp_path, monkeypatch):
        path = save(tmp_path / "x.png", noise(4, 4)[..., 0])
        data = bytearray(path.read_bytes())
        data[16:24] = (15_000).to_bytes(4, "big") * 2  # of IHDR, whose checksum follows
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        path.write_bytes(data)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        for read in (read_rgb, read_indices, stored_size):
            with pytest.raises(DataError, match="more than 200 megapixels; scale it down"):
                read(path)

    def test_folders_that_cannot_be_read_are_not_passed_over(self, tmp_path, monkeypatch):
        save(tmp_path / "a" / "0.png", noise(4, 4))
        real = os.scandir

        def scandir(path):
            if Path(path).name == "a":
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        with pytest.raises(DataError, match=r"cannot read folder .*a: Permission denied"):
            list_pictures(tmp_path)
