"""The judge by embeddings, judges by file, and judges as a recipe names them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sith_hf.core.settings import Settings
from sith_hf.errors import InputError
from sith_hf.judges import EmbeddingJudge, Judge, LanguageModelJudge, SheetJudge, make_judge
from sith_hf.judges.embeddings import topic_relevance
from sith_hf.judges.judge import JudgeSettings
from tests.support.made import tiny_concepts

PLACES = ("beach", "Ocean", "forest", "desert")


class Holder(Settings):
    """As a recipe holds a judge."""

    judge: JudgeSettings


def read(data):
    """Settings of a judge as a recipe's YAML gives them."""
    return Holder.from_data({"judge": data}, "recipe").judge


@pytest.fixture(scope="module")
def decomposition(editor):
    return editor.decompose(tiny_concepts(), layers=[-1], rank=4)


@pytest.fixture(scope="module")
def known(decomposition):
    """Four concepts that explanations have."""
    return decomposition.texts[:4]


class TestEmbeddingJudge:
    def test_all_of_the_concepts_make_a_five_and_none_a_one(self, decomposition):
        judge = EmbeddingJudge("all", decomposition.texts)
        assert (judge.score(decomposition).value == 5).all()
        for_one = EmbeddingJudge("one", decomposition.texts[:1], near=1.0).score(decomposition).value
        has = (decomposition.concept == 0).any(dim=-1) & (decomposition.weight.sum(-1) > 0)
        assert has.any()
        assert ((for_one > 1) | ~has).all()
        # Nothing of the topic, nor near it.
        assert (for_one == 1).any()

    def test_more_of_a_topic_never_lowers_a_score(self, decomposition, known):
        few = EmbeddingJudge("few", known[:2]).score(decomposition).value
        more = EmbeddingJudge("more", known).score(decomposition).value
        assert (more >= few).all()
        assert (more > few).any()

    def test_three_is_one_half(self, decomposition, known):
        queries = torch.stack([decomposition.embedding_of(text) for text in known])
        value = EmbeddingJudge("topic", known).score(decomposition).value
        assert torch.equal(value >= 3, topic_relevance(decomposition, queries) >= 0.5)
        assert torch.allclose(value, 1 + 4 * topic_relevance(decomposition, queries))

    def test_nearness_counts_in_part_between_its_borders(self, decomposition):
        # Of the first explanation nothing is left but one concept, and the query turns away from it.
        concept = torch.full_like(decomposition.concept, -1)
        weight = torch.zeros_like(decomposition.weight)
        concept[..., 0], weight[..., 0] = 0, 0.7
        one = replace(decomposition, concept=concept, weight=weight)
        atom, mean = one.atoms[0].double(), one.dictionary_mean.double()
        aside = torch.linalg.qr(torch.stack([atom, mean, torch.ones_like(mean)], dim=1)).Q[:, 2]
        found = []
        for cosine in (1.0, 0.61, 0.5, 0.45, 0.39, 0.0, -1.0):
            query = mean + atom * cosine + aside * (1 - cosine**2) ** 0.5
            found.append(float(topic_relevance(one, query.float().unsqueeze(0))[0, 0, 0, 0]))
        assert found == pytest.approx([1, 1, 0.5, 0.25, 0, 0, 0], abs=2e-3)

    def test_an_explanation_without_concepts_has_no_score(self, decomposition, known):
        weight, concept = decomposition.weight.clone(), decomposition.concept.clone()
        weight[0, 0, 0, 0], concept[0, 0, 0, 0] = 0, -1
        scores = EmbeddingJudge("topic", known).score(replace(decomposition, weight=weight, concept=concept))
        assert torch.isnan(scores.value[0, 0, 0, 0])
        assert (scores.missing, scores.record["empty"]) == (1, 1)

    def test_an_editor_embeds_what_no_explanation_has(self, editor, decomposition):
        with pytest.raises(InputError, match="no explanation has the concept"):
            EmbeddingJudge("topic", ("a harbour",)).score(decomposition)
        scores = EmbeddingJudge("topic", ("a harbour",), editor.embed).score(decomposition)
        assert scores.missing == 0

    def test_the_same_question_has_the_same_answer(self, decomposition, known, tmp_path):
        judge = EmbeddingJudge("topic", known)
        files = [judge.score(decomposition).save_pretrained(tmp_path / name).read_bytes() for name in "ab"]
        assert files[0] == files[1]
        EmbeddingJudge("topic", known).score(decomposition).check(decomposition)

    @pytest.mark.parametrize(
        "bad",
        [
            {"topic": " "}, {"concepts": ()}, {"concepts": "beach"}, {"concepts": ("",)}, {"concepts": (1,)},
            {"near": 0}, {"near": 1.1}, {"near": float("nan")}, {"near": "x"},
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_refused(self, editor, decomposition, bad):
        with pytest.raises(InputError):
            EmbeddingJudge(**{"topic": "t", "concepts": PLACES, "embed": editor.embed, **bad}).score(decomposition)


class TestSheetJudge:
    @pytest.fixture
    def scores(self, decomposition, known):
        return EmbeddingJudge("topic", known).score(decomposition)

    def test_it_says_what_the_file_says(self, scores, decomposition, tmp_path):
        sheet = scores.to_csv(tmp_path / "sheet.csv", decomposition)
        file = scores.save_pretrained(tmp_path)
        for path in (sheet, file, tmp_path):
            found = SheetJudge(path, "places").score(decomposition)
            assert torch.allclose(found.value, scores.value, atol=1e-4)
        assert SheetJudge(sheet, "places").score(decomposition).topic == "places"
        assert SheetJudge(file, "places").score(decomposition).topic == "topic"

    def test_it_reads_the_file_that_is_meant(self, scores, decomposition, tmp_path):
        sheet = scores.to_csv(tmp_path / "sheet.csv", decomposition)
        right = hashlib.sha256(sheet.read_bytes()).hexdigest()
        SheetJudge(sheet, sha256=right).score(decomposition)
        with pytest.raises(InputError, match="another file"):
            SheetJudge(sheet, sha256="0" * 64).score(decomposition)

    def test_scores_of_other_explanations_are_refused(self, editor, scores, tmp_path):
        other = editor.decompose(tiny_concepts(), layers=[0], rank=4)
        scores.save_pretrained(tmp_path)
        with pytest.raises(InputError, match="other explanations"):
            SheetJudge(tmp_path).score(other)

    @pytest.mark.parametrize("name", ["nothing", "nothing.csv", "x\0y", "/dev/zero"])
    def test_no_file_is_refused(self, decomposition, tmp_path, name):
        with pytest.raises(InputError):
            SheetJudge(tmp_path / name).score(decomposition)


class TestSettings:
    def test_each_way_makes_its_judge(self, editor, tmp_path):
        kinds = {
            EmbeddingJudge: {"topic": "t", "concepts": ["beach"]},
            LanguageModelJudge: {"by": "language-model", "prompt": "place", "base_url": "http://localhost:1/v1"},
            SheetJudge: {"by": "file", "path": "sheet.csv", "sha256": "0" * 64},
        }
        for kind, data in kinds.items():
            made = make_judge(read(data), editor.embed, folder=tmp_path)
            assert type(made) is kind
            assert isinstance(made, Judge)

    def test_paths_begin_in_the_folder(self, editor, tmp_path):
        (tmp_path / "mine.j2").write_text("Rate {{ concepts }} for {{ topic }}.")
        sheet = make_judge(read({"by": "file", "path": "a/sheet.csv"}), None, folder=tmp_path)
        assert sheet.path == tmp_path / "a" / "sheet.csv"
        data = {"by": "language-model", "prompt": "mine.j2", "topic": "t", "model": "me/model"}
        made = make_judge(read(data), None, folder=tmp_path, cache=Path("c"), transcript=Path("t"))
        assert made.prompt.source.startswith("Rate")
        assert (made.cache, made.transcript) == (Path("c"), Path("t"))

    def test_they_come_back_as_they_were(self):
        settings = read({"by": "language-model", "prompt": "place", "model": "me/model"})
        assert read(settings.model_dump(mode="json")) == settings
        assert read({"topic": "t", "concepts": ["a"]}).model_dump(mode="json")["by"] == "embeddings"
        assert Holder.model_json_schema()

    def test_there_is_no_place_for_a_token(self):
        for key in ("token", "api_key"):
            with pytest.raises(InputError, match=key):
                read({"by": "language-model", "model": "me/model", key: "hf_x"})

    @pytest.mark.parametrize(
        ("data", "part"),
        [
            ({"topic": "t", "concept": ["a"], "concepts": ["a"]}, "did you mean concepts"),
            ({"by": "file", "pat": "x", "path": "x"}, "did you mean path"),
            ({"by": "magic"}, "embeddings, language-model or file"),
            ({"by": ["file"]}, "embeddings, language-model or file"),
            ("embeddings", "embeddings, language-model or file"),
            ({"topic": "t"}, "concepts"),
            ({"topic": "t", "concepts": ["a"], "near": 2}, "near"),
            ({"by": "language-model", "model": "m", "workers": 0}, "workers"),
            ({"by": "language-model", "model": "m", "timeout": float("nan")}, "timeout"),
            ({"by": "file", "path": "x", "sha256": "abc"}, "sha256"),
        ],
    )
    def test_what_cannot_be_is_refused_by_its_name(self, data, part):
        with pytest.raises(InputError, match=part):
            read(data)

    @pytest.mark.parametrize(
        "data",
        [
            {},
            {"model": "http://localhost:1/v1"},
            {"model": "m", "provider": "groq", "base_url": "http://localhost:1"},
            {"base_url": "localhost:8000"},
            {"base_url": "file:///etc/passwd"},
            {"base_url": "http://"},
            {"base_url": "http://[::1"},
            {"base_url": "http://me:secret@localhost:1/v1"},
            {"base_url": "http://localhost:1/v1?api_key=secret"},
            {"model": "m", "prompt": "nothing.j2", "topic": "t"},
            {"model": "m", "prompt": "topic"},
        ],
    )
    def test_a_language_model_that_cannot_be_asked_is_refused(self, data, tmp_path):
        with pytest.raises(InputError) as refused:
            make_judge(read({"by": "language-model", "prompt": "place", **data}), None, folder=tmp_path)
        assert "secret" not in str(refused.value)
