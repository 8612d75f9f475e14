"""Decision files: the authors' form and numbered vectors give the same scores, and anything else is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.gains.scores import Scores
from sith_hf.judges import SheetJudge
from sith_hf.reference import read_decisions
from tests.support.cli import refused, sith
from tests.support.made import WORDS, tiny_editor

NAME = "layer-{}_right_foldln_conceptnet_comp-0.3_sparsity-5.txt"


@pytest.fixture(scope="module")
def decomposition(tmp_path_factory: pytest.TempPathFactory) -> Decomposition:
    """Two layers, four heads, three vectors a head, one pole."""
    editor = tiny_editor(tmp_path_factory.mktemp("base"))
    return editor.decompose(ConceptDictionary.from_texts(WORDS), layers=[1, 2], rank=3, poles="+")


def score(layer: int, head: int, vector: int) -> int:
    return (3 * layer + 5 * head + vector) % 5 + 1


def places(layers: tuple[int, ...]) -> list[tuple[int, int, int]]:
    return [(layer, head, vector) for layer in layers for head in range(4) for vector in range(3)]


def write(path: Path, lines: list[str], end: str = "\n") -> Path:
    path.write_text(end.join(lines) + end, encoding="utf-8", newline="")
    return path


def read(decomposition: Decomposition, *files: Path) -> Scores:
    return read_decisions(files, decomposition, topic="places")


class TestAuthors:
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    @pytest.mark.parametrize("form", ["{}", " {} ", "a theme,{}", "737, a jet,{}"])
    def test_one_line_a_vector_in_a_file_a_layer(
        self, decomposition: Decomposition, tmp_path: Path, form: str, end: str
    ) -> None:
        files = [
            write(tmp_path / NAME.format(layer), [form.format(score(*p)) for p in places((layer,))], end)
            for layer in (2, 1)
        ]
        scores = read(decomposition, *files)
        wanted = [score(*place) for place in places((1, 2))]
        assert scores.value.flatten().tolist() == wanted
        assert (scores.record["empty"], scores.record["absent"]) == (0, 0)
        assert set(scores.record["sha256"]) == {NAME.format(1), NAME.format(2)}
        scores.check(decomposition)

    def test_an_error_is_no_score(self, decomposition: Decomposition, tmp_path: Path) -> None:
        lines = ["Error", *[str(score(*place)) for place in places((2,))[1:]]]
        scores = read(decomposition, write(tmp_path / NAME.format(2), lines))
        value = scores.value[1].flatten()
        assert math.isnan(value[0])
        assert not torch.isnan(value[1:]).any()
        assert torch.isnan(scores.value[0]).all()
        assert (scores.record["empty"], scores.record["absent"]) == (1, 12)

    @pytest.mark.parametrize(
        ("change", "part"),
        [
            (lambda lines: lines[:-1], "11 lines"),
            (lambda lines: [*lines, "4"], "13 lines"),
            (lambda lines: [*lines[:3], "", *lines[4:]], "line 4: .*blank"),
            (lambda lines: [*lines[:3], "6", *lines[4:]], "line 4: .*'6'"),
            (lambda lines: [*lines[:3], "high", *lines[4:]], "line 4: .*'high'"),
            (lambda lines: [*lines[:3], "4.5.6", *lines[4:]], "line 4"),
            (lambda lines: [*lines[:3], "theme,", *lines[4:]], "line 4"),
            (lambda lines: [*lines[:3], "nan!", *lines[4:]], "line 4"),
        ],
    )
    def test_what_does_not_fit_is_refused_by_line(
        self, decomposition: Decomposition, tmp_path: Path, change: Callable[[list[str]], list[str]], part: str
    ) -> None:
        lines = [str(score(*place)) for place in places((2,))]
        with pytest.raises(InputError, match=part):
            read(decomposition, write(tmp_path / NAME.format(2), change(lines)))
        assert read(decomposition, write(tmp_path / NAME.format(2), lines)).scored == 12

    def test_the_layer_is_in_the_name(self, decomposition: Decomposition, tmp_path: Path) -> None:
        lines = [str(score(*place)) for place in places((2,))]
        with pytest.raises(InputError, match="nor a layer in the file's name"):
            read(decomposition, write(tmp_path / "decisions.txt", lines))
        with pytest.raises(InputError, match="no layer 20"):
            read(decomposition, write(tmp_path / NAME.format(20), lines))

    def test_left_vectors_are_read_directions(self, decomposition: Decomposition, tmp_path: Path) -> None:
        left = write(tmp_path / NAME.format(2).replace("right", "left"), ["4"] * 12)
        with pytest.raises(InputError, match="left"):
            read(decomposition, left)
        reading = replace(decomposition, settings={**decomposition.settings, "side": "read"})
        assert read(reading, left).scored == 12
        with pytest.raises(InputError, match="right"):
            read(reading, write(tmp_path / NAME.format(2), ["4"] * 12))


class TestNumbered:
    @pytest.mark.parametrize(
        "form",
        [
            "{} {} {} {}", "{},{},{},{}", "{}, {}, {}, {}", "{}\t{}\t{}\t{}", "{};{};{};{}", "({}, {}, {}): {}",
            "[{} {} {}] {}", "{}/{}/{} -> {}", "layer-{}_head-{}_vector-{}: {}", "Layer {}, Head {}, SV {}: {}",
            "L{} H{} V{} {}", "layer={} head={} singular_vector={} score={}", "{}:{}:{}={}.0", "  {} {} {}   {}  ",
            "({},{},{},{})",
        ],
    )  # fmt: skip
    def test_separators_and_names_are_free(self, decomposition: Decomposition, tmp_path: Path, form: str) -> None:
        lines = [form.format(*place, score(*place)) for place in reversed(places((1, 2)))]
        scores = read(decomposition, write(tmp_path / "decisions.txt", lines))
        assert scores.value.flatten().tolist() == [score(*place) for place in places((1, 2))]

    def test_a_header_comments_and_blank_lines_are_skipped(self, decomposition: Decomposition, tmp_path: Path) -> None:
        scores = read(
            decomposition, write(tmp_path / "d.txt", ["Layer, Head, Vector, Score", "# by hand", "", "2,0,1,4", ""])
        )
        assert scores.value[1, 0, 1, 0] == 4
        assert (scores.scored, scores.record["absent"]) == (1, 23)

    def test_the_name_may_hold_the_layer(self, decomposition: Decomposition, tmp_path: Path) -> None:
        scores = read(decomposition, write(tmp_path / "layer-2.txt", ["0 1 4", "h3 v2: error"]))
        assert scores.value[1, 0, 1, 0] == 4
        assert (scores.scored, scores.record["empty"]) == (1, 1)

    @pytest.mark.parametrize(
        ("lines", "part"),
        [
            (["2 0 1 4", "2 0 1 4"], "line 2: layer 2, head 0, vector 1 has a score"),
            (["2 0 1 4", "2 0 9 4"], "line 2: .* no layer 2, head 0, vector 9"),
            (["2 9 1 4"], "no layer 2, head 9"),
            (["0 0 1 4"], "no layer 0"),
            (["2 0 1 6"], "line 1"),
            (["2 0 1 remove"], "remove"),
            (["2 0 -1 4"], "neither"),
            (["2 0 1 4", "2 0 1"], "neither .*Line 2"),
            (["head, layer, vector, score", "0,2,1,4"], "neither .*Line 1"),
            (["2.5 0 1 4"], "neither"),
            (["2 0 1 Error"], "no score"),
            (["a\x1b[2J"], "neither"),
            ([""], "neither"),
        ],
    )
    def test_what_is_not_understood_is_refused(
        self, decomposition: Decomposition, tmp_path: Path, lines: list[str], part: str
    ) -> None:
        with pytest.raises(InputError, match=part) as refusal:
            read(decomposition, write(tmp_path / "d.txt", lines))
        assert "\x1b" not in str(refusal.value)

    def test_other_encodings_and_devices_are_refused(self, decomposition: Decomposition, tmp_path: Path) -> None:
        (tmp_path / "d.txt").write_bytes("2 0 1 4\n".encode("utf-16"))
        for path, part in (
            (tmp_path / "d.txt", "UTF-8"),
            (Path("/dev/zero"), "not a regular file"),
            (tmp_path, "is a folder"),
        ):
            with pytest.raises(InputError, match=part):
                read(decomposition, path)


def test_of_two_poles_only_plus_is_scored(tmp_path: Path) -> None:
    both = tiny_editor(tmp_path / "base").decompose(ConceptDictionary.from_texts(WORDS), layers=[2], rank=1)
    scores = read(both, write(tmp_path / NAME.format(2), ["1", "2", "3", "4"]))
    assert scores.value[0, :, 0, 0].tolist() == [1, 2, 3, 4]
    assert torch.isnan(scores.value[..., 1]).all()


class TestCommand:
    @pytest.mark.parametrize("name", ["scores.csv", "scores"])
    def test_its_output_is_read_like_any_judges(self, decomposition: Decomposition, tmp_path: Path, name: str) -> None:
        decomposition.save_pretrained(tmp_path / "d")
        path = write(tmp_path / NAME.format(2), [str(score(*place)) for place in places((2,))])
        ran = sith("import-scores", path, tmp_path / "d", "-o", tmp_path / name, "--topic", "places", "--json")
        assert ran.code == 0, ran.err
        assert (ran.data["scored"], ran.data["record"]["absent"]) == (12, 12)
        scores = SheetJudge(tmp_path / name, "places").score(decomposition)
        assert torch.equal(scores.value.nan_to_num(), read(decomposition, path).value.nan_to_num())

    def test_a_sheet_is_not_overwritten_and_nothing_is_half_written(
        self, decomposition: Decomposition, tmp_path: Path
    ) -> None:
        decomposition.save_pretrained(tmp_path / "d")
        path = write(tmp_path / NAME.format(2), ["4"])
        assert "1 lines" in refused(sith("import-scores", path, tmp_path / "d", "-o", tmp_path / "scores.csv"))
        assert not (tmp_path / "scores.csv").exists()
        (tmp_path / "mine.csv").write_text("mine")
        assert "exists" in refused(sith("import-scores", path, tmp_path / "d", "-o", tmp_path / "mine.csv"))
        assert (tmp_path / "mine.csv").read_text() == "mine"

    def test_judge_import_points_to_it(self, decomposition: Decomposition, tmp_path: Path) -> None:
        decomposition.save_pretrained(tmp_path / "d")
        path = write(tmp_path / NAME.format(2), ["4"] * 12)
        message = refused(sith("judge", tmp_path / "d", "--import", path, "-o", tmp_path / "s"))
        assert "import-scores" in message
