"""``sith-hf judge``: by embeddings, by a language model, and by a person's sheet."""

from __future__ import annotations

import csv

import pytest
import torch

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.gains.scores import Scores
from tests.support import tiny
from tests.support.chat_server import chat_server
from tests.support.cli import HOSTILE, refused, sith

WORDS = ("sea", "ocean", "beach", "forest", "road", "bird", "boat", "red", *HOSTILE)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    tiny.save_clip(folder / "clip")
    editor = SithEditor.from_pretrained(folder / "clip")
    editor.decompose(ConceptDictionary.from_texts(WORDS), layers=[-1], rank=3).save_pretrained(folder / "d")
    return folder


@pytest.fixture(scope="module")
def poles(work):
    return Decomposition.from_pretrained(work / "d").fidelity.numel()


class TestByEmbeddings:
    def test_it_is_the_default(self, work, tmp_path, poles):
        ran = sith("judge", work / "d", "--topic", "water", "--concepts", "sea, ocean", "-o", tmp_path, "--json")
        assert ran.code == 0, ran.err
        assert (ran.data["poles"], ran.data["scored"], sum(ran.data["from"].values())) == (poles, poles, poles)
        assert ran.data["record"]["concepts"] == ["sea", "ocean"]
        Scores.from_pretrained(tmp_path).check(Decomposition.from_pretrained(work / "d"))

    def test_its_output_has_no_control_characters(self, work, tmp_path):
        concepts = ",".join(text for text in HOSTILE if "," not in text)
        ran = sith(
            "judge", work / "d", "--topic", "\x1b[2J", "--concepts", concepts, "--model", work / "clip", "-o", tmp_path
        )
        assert ran.code == 0, ran.err
        assert str(tmp_path / "scores.safetensors") in ran.out
        assert not set(ran.out) & {"\x1b", "\x07", "\u202e", "\u2028"}

    def test_the_model_embeds_what_no_explanation_has(self, work, tmp_path):
        asked = ("judge", work / "d", "--topic", "t", "--concepts", "a harbour", "-o", tmp_path)
        assert "--model" in refused(sith(*asked))
        assert sith(*asked, "--model", work / "clip").code == 0


class TestByLanguageModel:
    def test_a_second_run_asks_nothing(self, work, tmp_path, poles):
        with chat_server(lambda prompt, _: "Score: 2") as seen:
            asked = ("judge", work / "d", "--by", "language-model", "--prompt", "place", "--base-url", seen.url)
            first = sith(*asked, "-o", tmp_path, "--json")
            count = len(seen.prompts)
            again = sith(*asked, "-o", tmp_path, "--json")
        assert first.code == again.code == 0, first.err
        assert len(seen.prompts) == count > 0
        assert again.data["run"] == {"asked": 0, "cached": count}
        assert again.data["from"] == {"1": 0, "2": poles, "3": 0, "4": 0, "5": 0}
        assert (tmp_path / "transcript.jsonl").is_file()

    def test_nonsense_is_one_clear_message(self, work, tmp_path):
        with chat_server(lambda prompt, _: "\x1b[31mwell") as seen:
            message = refused_with_bar(
                sith("judge", work / "d", "--by", "language-model", "--prompt", "place", "--base-url", seen.url,
                     "--llm-model", "m", "-o", tmp_path)
            )  # fmt: skip
        assert "Score: 4" in message
        assert "kept" not in message
        assert not (tmp_path / "scores.safetensors").exists()


def refused_with_bar(ran):
    """As ``refused``, with a progress bar on stderr before the message."""
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err
    return ran.err[ran.err.rindex("Error: ") :]


class TestByAPerson:
    def test_a_sheet_goes_out_and_comes_back(self, work, tmp_path, poles):
        sheet = tmp_path / "sheet.csv"
        ran = sith("judge", work / "d", "--export", sheet, "--json")
        assert ran.data == {"sheet": str(sheet), "rows": poles}
        with sheet.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["score"] for row in rows] == [""] * poles
        rows[0]["score"], rows[1]["score"] = "5", "2.5"
        with sheet.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows[:-1])
        ran = sith("judge", work / "d", "--import", sheet, "--topic", "water", "-o", tmp_path / "scores", "--json")
        assert ran.code == 0, ran.err
        assert (ran.data["scored"], ran.data["missing"]) == (2, poles - 2)
        assert (ran.data["record"]["empty"], ran.data["record"]["absent"]) == (poles - 3, 1)
        value = Scores.from_pretrained(tmp_path / "scores").value.flatten()
        assert torch.equal(value[:2], torch.tensor([5.0, 2.5]))
        assert sith("judge", work / "d", "--import", sheet, "-o", tmp_path / "untitled").code == 0
        assert "--overwrite" in refused(sith("judge", work / "d", "--import", sheet, "-o", tmp_path / "scores"))
        again = sith("judge", work / "d", "--import", sheet, "-o", tmp_path / "scores", "--overwrite")
        assert again.code == 0, again.err

    def test_a_sheet_that_may_be_filled_in_is_not_overwritten(self, work, tmp_path):
        (tmp_path / "sheet.csv").write_text("mine")
        assert "exists" in refused(sith("judge", work / "d", "--export", tmp_path / "sheet.csv"))
        assert (tmp_path / "sheet.csv").read_text() == "mine"

    def test_a_wrong_score_is_named_by_its_line(self, work, tmp_path):
        sheet = tmp_path / "sheet.csv"
        sith("judge", work / "d", "--export", sheet)
        lines = sheet.read_bytes().split(b"\r\n")
        lines[2] += b"9"
        sheet.write_bytes(b"\r\n".join(lines))
        assert "line 3" in refused(sith("judge", work / "d", "--import", sheet, "-o", tmp_path / "scores"))
        assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "-o"),
        (("-o", "x"), "--topic"),
        (("-o", "x", "--topic", "t"), "--concepts"),
        (("-o", "x", "--topic", "t", "--concepts", ","), "concepts"),
        (("-o", "x", "--topic", "t", "--concepts", "sea", "--llm-model", "m"), "--llm-model"),
        (("-o", "x", "--topic", "t", "--concepts", "sea", "--near", "2"), "near"),
        (("-o", "x", "--by", "language-model", "--concepts", "sea"), "--concepts"),
        (("-o", "x", "--by", "language-model", "--prompt", "place"), "--base-url"),
        (("-o", "x", "--by", "language-model", "--prompt", "place", "--model", "m"), "--model"),
        (("-o", "x", "--by", "language-model", "--llm-model", "m"), "topic"),
        (("-o", "x", "--by", "language-model", "--llm-model", "m", "--prompt", "nothing.j2"), "one of topic, place"),
        (("-o", "x", "--by", "embeddings", "--import", "sheet.csv"), "--by"),
        (("-o", "x", "--import", "nothing.csv"), "no such file"),
        (("-o", "x", "--import", "nothing.csv", "--workers", "2"), "--workers"),
        (("--export", "sheet.csv", "--topic", "t"), "--export"),
    ],
)
def test_what_does_not_go_together_is_refused(work, tmp_path, monkeypatch, arguments, part):
    monkeypatch.chdir(tmp_path)
    assert part in refused(sith("judge", work / "d", *arguments))
    assert not list(tmp_path.iterdir())


def test_no_decomposition_is_refused(tmp_path):
    for asked in (("--export", tmp_path / "s.csv"), ("--topic", "t", "--concepts", "sea", "-o", tmp_path / "x")):
        refused(sith("judge", tmp_path / "nothing", *asked))
    assert not list(tmp_path.iterdir())
