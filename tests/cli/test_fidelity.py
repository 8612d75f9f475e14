"""``sith-hf fidelity`` and ``import-reference``: tables, files, and one clear message for each fault."""

from __future__ import annotations

import csv
import sys

import pytest
import torch

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.images import estimated_mean
from sith_hf.pursuit.pursuit import Pursuit
from tests.support import published, tiny
from tests.support.cli import Ran, refused, sith, succeeded

WORDS = (
    "sea",
    "ocean",
    "beach",
    "forest",
    "road",
    "bird",
    "boat",
    "red",
    "blue",
    "night",
    "\x1b[31mred\x1b[0m",
    "snow",
)
SMALL = ("--layers", "-1", "--rank", "2", "--sparsities", "2,4", "--methods", "comp,omp", "--draws", "19")
NAME = "layer-{}_right_foldln_words_comp-0.3_sparsity-3.pt"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    tiny.save_clip(folder / "clip")
    tiny.save_clip(folder / "other", seed=1)
    (folder / "concepts.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (folder / "backwards.txt").write_text("\n".join(WORDS[::-1]) + "\n", encoding="utf-8")
    editor = SithEditor.from_pretrained(folder / "clip")
    made = editor.decompose(ConceptDictionary.from_texts(WORDS), poles="+", pursuit=Pursuit(sparsity=3))
    number = torch.tensor([WORDS.index(text) for text in made.texts])
    for at in range(3):
        torch.save(
            {"scores": made.weight[at, :, :, 0], "indices": number[made.concept[at, :, :, 0]]}, folder / NAME.format(at)
        )
    made.save_pretrained(folder / "made")
    return folder


def measured(work, *arguments: object) -> Ran:
    return sith("fidelity", work / "clip", "--concepts", work / "concepts.txt", *arguments)


class TestFidelity:
    def test_the_table(self, work):
        ran = succeeded(measured(work, *SMALL, "--details"))
        for word in ("fidelity", "coherence", "comp 0.1", "comp 0.5", "omp", "19 random directions", "0.05"):
            assert word in ran.out
        assert "explaining" in ran.err
        assert "explaining" not in ran.out

    def test_json_holds_nothing_else(self, work):
        ran = measured(work, *SMALL, "--json")
        data = ran.data
        assert (data["layers"], data["heads"], data["vectors"], data["draws"]) == ([2], 4, 2, 19)
        assert len(data["results"]) == 8
        assert data == measured(work, *SMALL, "--json").data
        assert data != measured(work, *SMALL, "--seed", "1", "--json").data

    @pytest.mark.parametrize(("null", "draws"), [("head", 19), ("none", 0)])
    def test_other_nulls(self, work, null, draws):
        ran = succeeded(measured(work, *SMALL, "--null", null))
        assert ("random directions" in ran.out) == (null == "head")
        assert measured(work, *SMALL, "--null", null, "--json").data["draws"] == draws

    def test_every_vector_as_csv(self, work, tmp_path):
        succeeded(measured(work, *SMALL, "-o", tmp_path / "vectors.csv"))
        with (tmp_path / "vectors.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 8 * 4 * 2 * 2
        assert all(1 / 20 - 1e-9 <= float(row["p"]) <= float(row["q"]) + 1e-9 <= 1 + 1e-8 for row in rows)
        (tmp_path / "vectors.csv").write_text("mine")
        assert "--overwrite" in refused(measured(work, *SMALL, "-o", tmp_path / "vectors.csv"))
        assert (tmp_path / "vectors.csv").read_text() == "mine"
        succeeded(measured(work, *SMALL, "-o", tmp_path / "vectors.csv", "--overwrite"))
        assert (tmp_path / "vectors.csv").read_text() != "mine"

    def test_the_plot_repeats(self, work, tmp_path):
        pytest.importorskip("matplotlib")
        for name in ("a.png", "b.png"):
            succeeded(measured(work, *SMALL, "--plot", tmp_path / name))
        one, two = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
        assert one == two
        assert one.startswith(b"\x89PNG")
        measured(work, *SMALL, "--seed", "1", "--plot", tmp_path / "c.png")
        assert (tmp_path / "c.png").read_bytes() != one

    def test_matplotlib_is_asked_for_before_the_work(self, work, tmp_path, monkeypatch):
        for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
            monkeypatch.setitem(sys.modules, name, None)
        ran = measured(work, *SMALL, "--plot", tmp_path / "a.png")
        assert "sith-hf[plot]" in refused(ran)
        assert "explaining" not in ran.err

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (("--sparsities", "5,50"), "this one has 12"),
            (("--sparsities", "0"), "sparsity"),
            (("--methods", "magic"), "unknown method"),
            (("--coherence-weights", "nan", "--sparsities", "2"), "coherence_weight"),
            (("--layers", "9", "--sparsities", "2"), "layer 9"),
            (("--draws", "0", "--sparsities", "2"), "draws"),
            (("--level", "2", "--sparsities", "2"), "level"),
            (("-o", "table.txt"), ".csv"),
            (("--plot", "plot.jpg"), ".png"),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, work, options, complaint):
        assert complaint in refused(measured(work, *options))

    @pytest.mark.parametrize("options", [("--coherence-weights", "a,b"), ("--sparsities", "5;6"), ("--null", "x")])
    def test_what_is_no_list_is_refused(self, work, options):
        assert options[0] in refused(measured(work, *options))

    def test_a_table_that_cannot_be_written(self, work, tmp_path):
        (tmp_path / "file").write_text("")
        ran = measured(work, *SMALL, "-o", tmp_path / "file" / "vectors.csv")
        assert "could not be written" in refused(ran)


class TestImportReference:
    def test_it_gives_our_artifact(self, work, tmp_path):
        files = [work / NAME.format(layer) for layer in (2, 0)]
        ran = succeeded(
            sith(
                "import-reference",
                *files,
                work / "clip",
                "--concepts",
                work / "concepts.txt",
                "--details",
                "-o",
                tmp_path / "d",
            )
        )
        found, ours = Decomposition.from_pretrained(tmp_path / "d"), Decomposition.from_pretrained(work / "made")
        assert found.layers == (0, 2)
        for layer in found.layers:
            for mine, theirs in zip(ours.theme(layer, 1, 8), found.theme(layer, 1, 8), strict=True):
                assert mine.concepts == theirs.concepts
        assert ConceptDictionary.from_pretrained(tmp_path / "d").sha256 == found.settings["dictionary_sha256"]
        assert "mean fidelity" in ran.out
        assert "100% of vectors agree" in ran.out
        assert "Warning" not in ran.err

    def test_json(self, work, tmp_path):
        arguments = (work / NAME.format(1), work / "clip", "--concepts", work / "concepts.txt")
        ran = sith("import-reference", *arguments, "-o", tmp_path / "d", "--json")
        data = ran.data
        assert (data["layers"], data["heads"], data["vectors"]) == ([1], 4, 8)
        assert data["fits"][0]["difference"] < 1e-4

    @pytest.mark.parametrize(("model", "concepts"), [("other", "concepts.txt"), ("clip", "backwards.txt")])
    def test_what_does_not_fit_is_refused_without_no_check(self, work, tmp_path, model, concepts):
        arguments = (work / NAME.format(1), work / model, "--concepts", work / concepts, "-o", tmp_path / "d")
        ran = sith("import-reference", *arguments)
        assert "does not fit" in refused(ran)
        assert not (tmp_path / "d").exists()
        assert "Warning" in succeeded(sith("import-reference", *arguments, "--no-check")).err
        assert (tmp_path / "d" / "decomposition.safetensors").is_file()

    def test_a_bad_file_is_refused_before_the_model_is_downloaded(self, work, tmp_path):
        (tmp_path / NAME.format(1)).write_bytes(b"no archive")
        arguments = (tmp_path / NAME.format(1), "nobody/nothing", "--concepts", work / "concepts.txt")
        ran = sith("import-reference", *arguments, "-o", tmp_path / "d")
        assert "zip archive" in refused(ran)

    def test_an_image_mean_belongs_to_its_model(self, work, tmp_path):
        """Our file is checked by its fingerprint, the authors' by its size and values."""
        for name in ("clip", "other"):
            mean = estimated_mean(SithEditor.from_pretrained(work / name), 0.1)
            mean.save_pretrained(tmp_path / name)
        size = len(mean.image_mean)
        for name, value in (
            ("good", torch.zeros(size)),
            ("long", torch.zeros(size + 1)),
            ("nan", torch.full((size,), torch.nan)),
        ):
            torch.save(value, tmp_path / f"{name}.pt")

        def use(command, mean, *arguments):
            files = () if command == "fidelity" else (work / NAME.format(1),)
            given = ("--concepts", work / "concepts.txt", "--image-mean", tmp_path / mean, *arguments)
            return sith(command, *files, work / "clip", *given)

        reading = ("-o", tmp_path / "d", "--no-check", "--overwrite")
        for command, arguments in (("fidelity", SMALL), ("import-reference", reading)):
            assert "has other values" in refused(use(command, "other", *arguments))
            succeeded(use(command, "clip", *arguments))  # the control
        for command, arguments in (("fidelity", SMALL), ("import-reference", reading)):
            for mean, part in (("long.pt", "image_mean"), ("nan.pt", "image mean")):
                assert part in refused(use(command, mean, *arguments))
            succeeded(use(command, "good.pt", *arguments))

    def test_what_the_files_explain_is_found_out(self, work, tmp_path):
        """Genuine files, each with one thing named wrongly: refused in one line that names the option, then told."""
        loaded = SithEditor.from_pretrained(work / "clip").loaded
        mean = torch.linspace(0, 0.2, 24)
        torch.save(mean, tmp_path / "image_mean.pt")

        def files(place, **options):
            options = {"layers": [1], "method": "nnomp", "mean": mean.double().numpy(), **options}
            return published.publish(tmp_path / place, loaded.model, loaded.tokenizer, WORDS, **options)

        def use(paths, *arguments):
            given = ("--concepts", work / "concepts.txt", "-o", tmp_path / "out", "--overwrite", *arguments)
            return sith("import-reference", *paths, work / "clip", *given)

        with_mean = ("--image-mean", tmp_path / "image_mean.pt")
        renamed = files("renamed", named="nofoldln")
        assert "--fold" in refused(use(renamed, *with_mean))
        genuine = files("genuine")
        assert "--without-mean" in refused(use(genuine))
        assert "exclude each other" in refused(use(genuine, *with_mean, "--without-mean"))
        left = files("left", side="left")
        path = left[0].rename(left[0].with_name(left[0].name.replace("left", "right")))
        assert "_left_" in refused(use([path], *with_mean))
        assert not (tmp_path / "out").exists()
        assert "agree" in succeeded(use(renamed, *with_mean, "--fold", "--details")).out
        assert "Warning" in succeeded(use(genuine, "--without-mean")).err
        assert "Warning" not in succeeded(use(genuine, *with_mean)).err
        path = path.rename(path.with_name(path.name.replace("right", "left")))
        assert "read directions" in succeeded(use([path], *with_mean, "--details")).out
        assert succeeded(sith("show", tmp_path / "out", "--json")).data[0]["side"] == "read"

    def test_files_and_model_are_both_needed(self, work, tmp_path):
        ran = sith("import-reference", work / "clip", "--concepts", work / "concepts.txt", "-o", tmp_path / "d")
        assert "FILES" in refused(ran)
