"""Scores on disk and in sheets: filled-in scores are read, and a wrong cell is refused by its line."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.core.escaping import escape_texts
from sith_hf.errors import ArtifactError, InputError, OutputError
from sith_hf.gains.score_csv import COLUMNS, explanations_sha256, read_score_csv, score_csv_text
from sith_hf.gains.scores import Scores
from tests.support.made import WORDS

# What a spreadsheet would run, what ends a cell or a line, what turns or hides text, what JSON gives a meaning to.
HOSTILE = (
    '=HYPERLINK("http://x","y")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1,1)", "\t=1", "a;=1+1", 'quote " and \\ back',
    "left\u202eright", "line\u2028break", "zero\u200bwidth", "comma, and\nnewline", "café 运动 🦓", "[1]", "{{ x }}",
    "</texts>",
)  # fmt: skip


@pytest.fixture(scope="module")
def decomposition(editor):
    return editor.decompose(ConceptDictionary.from_texts([*WORDS, *HOSTILE]), layers=[-2, -1], rank=4)


@pytest.fixture(scope="module")
def other(editor, decomposition):
    """A decomposition of the same shape with other concepts."""
    return editor.decompose(ConceptDictionary.from_texts(WORDS), layers=[-2, -1], rank=4)


@pytest.fixture
def scores(decomposition):
    value = torch.randint(4, 21, decomposition.fidelity.shape, generator=torch.Generator().manual_seed(0)) / 4
    value[0, 0, 0, 0] = torch.nan
    return Scores.of(decomposition, value, topic="places", judge="a person", record={"by": "file"}, run={"asked": 3})


@pytest.fixture
def sheet(decomposition, tmp_path):
    """A function that writes a sheet whose scores are 3, after changing its rows."""

    def write(change=lambda rows: rows, **style):
        rows = [dict(row, score="3") for row in csv.DictReader(io.StringIO(score_csv_text(decomposition)))]
        path = tmp_path / "sheet.csv"
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, **style)
            writer.writeheader()
            writer.writerows(change(rows))
        return path

    return write


class TestScores:
    def test_they_come_back_from_disk(self, scores, tmp_path):
        path = scores.save_pretrained(tmp_path / "scores")
        found = Scores.from_pretrained(tmp_path / "scores")
        assert torch.equal(found.value, scores.value) is False  # a NaN equals nothing
        assert torch.allclose(found.value, scores.value, equal_nan=True)
        assert (found.layers, found.poles, found.topic, found.judge) == ((1, 2), ("+", "-"), "places", "a person")
        assert found.record == {"by": "file"}
        assert found.decomposition_sha256 == scores.decomposition_sha256
        assert (found.scored, found.missing) == (scores.value.numel() - 1, 1)
        assert Scores.from_pretrained(path).topic == "places"

    def test_what_a_run_did_does_not_change_the_file(self, scores, tmp_path):
        first = scores.save_pretrained(tmp_path / "a").read_bytes()
        assert replace(scores, run={"asked": 0}).save_pretrained(tmp_path / "b").read_bytes() == first
        assert replace(scores, record={"by": "x"}).save_pretrained(tmp_path / "c").read_bytes() != first

    @pytest.mark.parametrize("bad", [0.0, 0.99, 5.01, -1.0, float("inf"), float("-inf")])
    def test_a_score_out_of_range_is_refused(self, scores, bad):
        value = scores.value.clone()
        value[1, 1, 1, 1] = bad
        with pytest.raises(InputError, match="1 to 5"):
            replace(scores, value=value)

    def test_a_shape_that_does_not_fit_is_refused(self, scores):
        for value in (scores.value[:1], scores.value[..., :1], scores.value[0]):
            with pytest.raises(InputError, match="shape"):
                replace(scores, value=value)

    def test_they_know_their_explanations(self, scores, decomposition, other):
        scores.check(decomposition)
        with pytest.raises(InputError, match="other explanations"):
            scores.check(other)

    def test_the_last_digits_of_weights_do_not_matter(self, scores, decomposition):
        scores.check(replace(decomposition, weight=decomposition.weight * (1 + 1e-6)))
        swapped = decomposition.concept.clone()
        swapped[0, 0, 0, 0] = swapped[0, 0, 0, 0].roll(1)
        assert explanations_sha256(replace(decomposition, concept=swapped)) != scores.decomposition_sha256

    @pytest.mark.parametrize("bad", [0.5, 6.0, float("nan")])
    def test_a_damaged_file_is_refused(self, scores, tmp_path, bad):
        path = scores.save_pretrained(tmp_path)
        tensors = load_file(path)
        tensors["score"][0, 0, 1, 0] = bad
        with safe_open(path, framework="pt") as file:
            save_file(tensors, path, file.metadata())
        with pytest.raises(ArtifactError, match=r"scores\.safetensors"):
            Scores.from_pretrained(tmp_path)

    def test_their_text_obeys_nobody(self, scores):
        assert "\x1b" not in repr(replace(scores, topic="\x1b[31mred", judge="\x1b]0;x\x07"))


class TestSheet:
    def test_scores_come_back(self, scores, decomposition, tmp_path):
        path = scores.to_csv(tmp_path / "sheet.csv", decomposition)
        found = Scores.from_csv(path, decomposition, topic="places")
        assert torch.allclose(found.value, scores.value, equal_nan=True)
        assert (found.record["empty"], found.record["absent"]) == (1, 0)
        found.check(decomposition)

    def test_scores_of_other_explanations_are_not_written_beside_these(self, scores, other, tmp_path):
        with pytest.raises(InputError, match="other explanations"):
            scores.to_csv(tmp_path / "sheet.csv", other)
        assert not list(tmp_path.iterdir())

    def test_it_goes_where_it_can_be_written_or_nowhere(self, scores, decomposition, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError):
            scores.to_csv(tmp_path / "file" / "sheet.csv", decomposition)

    def test_every_hostile_concept_is_in_it_and_comes_back(self, decomposition):
        rows = list(csv.DictReader(io.StringIO(score_csv_text(decomposition))))
        listed = [tuple(json.loads(row["concepts"])) for row in rows]
        assert listed == [tuple(text for text, _ in item.concepts) for item in decomposition.explanations()]
        assert len({text for texts in listed for text in texts} & set(HOSTILE)) > len(HOSTILE) / 2

    @pytest.mark.parametrize("border", [",", ";", "\t"])
    def test_no_cell_is_run_by_a_spreadsheet_whatever_it_takes_for_a_border(self, decomposition, border):
        for cell in self.cells(score_csv_text(decomposition), border):
            assert not self.runs(cell), cell

    def test_the_naive_sheet_would_be_run(self, decomposition):
        # The control: concepts joined by commas, and poles as they are called elsewhere.
        file = io.StringIO()
        csv.writer(file).writerows([item.pole, ", ".join(t for t, _ in item.concepts)] for item in
                                   decomposition.explanations())  # fmt: skip
        for border in ",;":
            assert any(self.runs(cell) for cell in self.cells(file.getvalue(), border))

    @staticmethod
    def cells(text, border):
        """As a spreadsheet splits them: by line first where the border is not the one that was written."""
        return [cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=border) for cell in row]

    @staticmethod
    def runs(cell):
        try:
            float(cell)
        except ValueError:
            return cell.lstrip("\t\r\n ")[:1] in tuple("=+-@") or cell[:1] in tuple("\t\r\n")
        return False

    @pytest.mark.parametrize(("delimiter", "score"), [(",", "3.5"), (";", "3,5"), ("\t", "3,5"), (";", "3.5")])
    def test_a_spreadsheet_may_save_it_in_its_own_way(self, sheet, decomposition, delimiter, score):
        path = sheet(lambda rows: [dict(row, score=score) for row in rows], delimiter=delimiter)
        assert (read_score_csv(path, decomposition)[0] == 3.5).all()

    def test_rows_may_be_sorted_and_blank_lines_and_columns_added(self, decomposition, sheet, tmp_path):
        lines = sheet().read_text(encoding="utf-8-sig").splitlines()
        mixed = [lines[0] + ",note", *(line + ",x" for line in reversed(lines[1:])), "", ",,,,,,,,,,"]
        (tmp_path / "mixed.csv").write_text("\n".join(mixed), encoding="utf-8")
        assert (read_score_csv(tmp_path / "mixed.csv", decomposition)[0] == 3).all()

    def test_what_is_not_filled_in_or_gone_is_counted_and_is_nan(self, sheet, decomposition):
        value, record = read_score_csv(sheet(lambda rows: [dict(rows[0], score=" "), *rows[2:]]), decomposition)
        assert (record["empty"], record["absent"]) == (1, 1)
        assert torch.isnan(value).flatten().nonzero().flatten().tolist() == [0, 1]

    @pytest.mark.parametrize(
        ("change", "part"),
        [
            (lambda rows: [rows[0], dict(rows[1], score="6"), *rows[2:]], "line 3: .*1 to 5"),
            (lambda rows: [rows[0], dict(rows[1], score="0"), *rows[2:]], "line 3: .*1 to 5"),
            (lambda rows: [rows[0], dict(rows[1], score="nan"), *rows[2:]], "line 3: .*1 to 5"),
            (lambda rows: [rows[0], dict(rows[1], score="inf"), *rows[2:]], "line 3: .*1 to 5"),
            (lambda rows: [rows[0], dict(rows[1], score="good"), *rows[2:]], "line 3: .*1 to 5"),
            (lambda rows: [rows[0], dict(rows[1], layer="9"), *rows[2:]], "line 3: .*no such layer"),
            (lambda rows: [rows[0], dict(rows[1], layer="-1"), *rows[2:]], "line 3: layer is"),
            (lambda rows: [rows[0], dict(rows[1], head="²"), *rows[2:]], "line 3: head is"),
            (lambda rows: [rows[0], dict(rows[1], pole="north"), *rows[2:]], "line 3: pole is"),
            (lambda rows: [rows[0], rows[0], *rows[1:]], "line 3: .*row already"),
            (lambda rows: [dict(rows[0], concepts=rows[2]["concepts"]), *rows[1:]], "line 2: .*another one"),
            (lambda rows: [dict(rows[0], concepts="["), *rows[1:]], "line 2: .*another one"),
            (lambda rows: [dict(rows[0], concepts="[" * 100_000), *rows[1:]], "line 2: .*another one"),
            (lambda rows: [dict(row, score="") for row in rows], "no score is filled in"),
            (lambda rows: [], "no score is filled in"),
            (lambda rows: [dict(row, score="7") for row in rows], "line 2: .*and .* more lines"),
        ],
    )
    def test_what_cannot_be_right_is_refused(self, sheet, decomposition, change, part):
        with pytest.raises(InputError, match=part):
            read_score_csv(sheet(change), decomposition)

    def test_a_sheet_of_another_decomposition_is_refused(self, sheet, other):
        with pytest.raises(InputError, match="another one"):
            read_score_csv(sheet(), other)

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            (b"", "line 1: expected the columns"),
            (b"layer,head,vector,pole,score\n0,0,0,plus,3\n", "line 1: expected the columns"),
            (b"layer,layer,head,vector,pole,concepts,score\n", "line 1: expected the columns"),
            (b"layer,head,vector,pole,concepts,score\n1,0\n", "line 2: 2 cells"),
            (b"layer,head,vector,pole,concepts,score\n\xff\xfe\n", "line 2: not UTF-8"),
            (b"layer,head,vector,pole,concepts,score\n1,0,0,plus,\"" + b"x" * 200_000 + b'",3\n', "line 2: not CSV"),
            (b"PK\x03\x04\x00\x00xlsx", "line 1"),
        ],
    )  # fmt: skip
    def test_another_file_is_refused(self, decomposition, tmp_path, content, part):
        (tmp_path / "sheet.csv").write_bytes(content)
        with pytest.raises(InputError, match=part):
            read_score_csv(tmp_path / "sheet.csv", decomposition)

    @pytest.mark.parametrize("name", ["nothing.csv", ".", "x\0y", "/dev/zero"])
    def test_no_file_is_refused(self, decomposition, tmp_path, name):
        with pytest.raises(InputError):
            read_score_csv(tmp_path / name, decomposition)


class TestQuoted:
    def test_it_is_json_on_one_line_without_the_marks(self):
        text = escape_texts(HOSTILE, "<>`{};")
        assert json.loads(text) == list(HOSTILE)
        assert text.isprintable()
        assert not set(text) & set("<>`{};")
        assert "café 运动 🦓" in text

    def test_json_by_itself_would_not_be(self):
        assert not json.dumps(HOSTILE, ensure_ascii=False).isprintable()
