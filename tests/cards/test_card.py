"""Cards: true to the edit, intact with any text, the same bytes every time. tests/test_publish.py runs their code."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt
from PIL import Image, ImageColor

from sith_hf.cards import facts as card_facts
from sith_hf.cards import markdown as templates
from sith_hf.cards.card import decomposition_card, dictionary_card, model_card, spec_card
from sith_hf.cards.edit_map import SCALE, colour, edit_map
from sith_hf.cards.markdown import fenced, impersonal, markdown_text
from sith_hf.charts import EMPTY
from sith_hf.checkpoint.lora import adapter_card, adapter_config
from sith_hf.checkpoint.write import save_edited
from sith_hf.core.fingerprint import BaseRef
from sith_hf.decomposition import Drivers
from sith_hf.edits import EditEffect
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.towers.registry import FAMILIES
from tests.cards import golden
from tests.cards.golden import EVALUATION, HERE, MANY, RECIPE, REVISION, make_decomposition, make_dictionary, make_spec
from tests.support.hub.cards import validate

TOKEN = "hf_" + "aBcDeFgH" * 4

HOSTILE = {
    "pipes": "a | b || c \\| d \\\\| e",
    "backticks": "``` `a` ````` ~~~",
    "new lines": "sea\n\n# Owned\n\n- a\n1. b\r\n\r\n---\r===",
    "front matter": "---\nlicense: evil\n---",
    "rule": "---",
    "list": "- - 1. x",
    "number": "1. x",
    "quote": "> x",
    "end of the fold": "</details></summary></td></table>",
    "script": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "half a tag": "<img src=x onerror=alert(1)",
    "comment": "<!-- <![CDATA[ <?php",
    "entities": "&lt;script&gt; &#60;b&#62; &amp;",
    "link": "[x](javascript:alert(1)) ![y](http://e.vil/t.png) [z]: http://e.vil",
    "autolink": "<http://e.vil> http://e.vil www.e.vil WWW.e.vil a@e.vil",
    "emphasis": "**a** __b__ *c* _d_ ~~e~~ $x$ $$y$$ :smile:",
    "backslash": "a\\",
    "jinja": "{{ 7*7 }} {% for x in y %} {# z #}",
    "colours": "\x1b[31mred\x1b[0m \x9b31m \x1b]0;owned\x07",
    "direction": "\u202egpj.exe\u2066x\u2069 \u200b\ufeff\u2028x\u2029",
    "yaml": "!!python/object:os.system x: [&a *a] %TAG | > - ? 'q\" # c",
    "very long": "sea|`<" * 5000,
    "emoji": "😀👩‍👩‍👧🏳️‍🌈 日本語 é",
    "null": "a\x00b",
    "token": TOKEN,
}
# What means nothing where it stands even if nobody makes it harmless.
TAME = {"pipes", "number", "rule", "quote", "list", "backslash", "jinja", "colours", "direction", "very long"}
TAME |= {"emoji", "null", "token", "front matter", "entities", "yaml", "new lines", "half a tag", "comment"}
HARMFUL = {name: text for name, text in HOSTILE.items() if name not in TAME}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return golden.save_base(tmp_path_factory.mktemp("cards") / "tiny-clip")


@pytest.fixture(scope="module")
def edited(base):
    save_edited(base, make_spec(base), base.parent / "edited")
    return base.parent / "edited"


def tokens(card: str) -> list[Any]:
    """The body of a card as a Markdown parser sees it, with HTML and tables, inline tokens in their place."""
    body = ModelCard(card).text if card.startswith("---\n") else card
    found = []
    for token in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(body):
        found += [token, *(token.children or [])]
    return found


def skeleton(card: str) -> list[tuple[object, ...]]:
    """All that a reader's browser would obey: elements with their attributes, and HTML as it is."""
    # A backslash that keeps a character from being markup is a token of its own, and text like any other.
    shown = {"html_block", "html_inline"}
    return [
        (t.type, t.tag, tuple(sorted(t.attrs.items())), t.content if t.type in shown else "")
        for t in tokens(card)
        if t.type not in ("text", "text_special")
    ]


def texts(card: str) -> str:
    """What a reader sees."""
    return "\n".join(t.content for t in tokens(card) if t.type in ("text", "text_special", "code_inline", "fence"))


def every_card(base: Path, folder: Path, text: str) -> dict[str, str]:
    """Each kind of card with ``text`` wherever a text comes from outside."""
    words = [f"{text} {i}" if len(text) < 100 else f"{i}{text}" for i in range(6)]
    settings = {**golden.SETTINGS, "encoder": text, "template": text, "method": text, "sparsity": text, text: [text]}
    place, named = BaseRef(f"/data/me/{text}", None, {}), {"less": words[:3], "more": [text]}
    spec = make_spec(base, words=words, reason=text, settings=settings, base=place, named=named)
    extra = replace(spec, base=BaseRef(spec.base.name, text, {**spec.base.sha256, text: text}))
    entry = {"dataset": text, "metric": text, "base": 0.5, "edited": 0.75, "split": text, "parts": {text: 0.6}}
    entry["baselines"] = {f"b {text}": 0.6}
    points = [{"contender": text, "setting": 1.0, "vectors": 1, "worst": 0.5, "average": 0.5}]
    sweep = {"over": text, "base": {"worst": 0.5, "average": 0.5}, "points": points}
    images = {**golden.EFFECT["images"], "title": text[:1000], "options": ["--images", text]}
    effect = {**golden.EFFECT, "images": images, "text_model": text[:1000]}
    effect["named"] = [{**golden.EFFECT["named"][0], "kept": {text: 0.5}}]
    extra = replace(extra, edited_sha256={text: text})
    extra.save_pretrained(folder / "sith")
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    decomposition = make_decomposition(words, name=text)
    return {
        "model": model_card(
            folder,
            extra,
            repo_id="me/x",
            base_card={"license": text, "license_name": text, "license_link": text, "language": [text], text: text},
            evaluation={"results": [entry], "collateral": [entry], "sweep": sweep},
            effect=EditEffect.from_data(effect, "the effect"),
            recipe=text,
        ),
        "spec": spec_card(extra, repo_id="me/x"),
        "bare": spec_card(replace(extra, provenance=None), repo_id="me/x"),
        "decomposition": decomposition_card(decomposition, repo_id="me/x"),
        "dictionary": dictionary_card(make_dictionary(words, text), repo_id="me/x"),
        "adapter": adapter_card(extra, adapter_config(extra)),
    }


class TestHostileTexts:
    @pytest.fixture(scope="class")
    def harmless(self, base):
        return {k: skeleton(v) for k, v in every_card(base, base.parent / "harmless", "sea").items()}

    def test_they_put_nothing_into_any_card(self, base, tmp_path, harmless):
        cards = {(kind, name): card for kind, text in HOSTILE.items()
                 for name, card in every_card(base, tmp_path / "edited", text).items()}  # fmt: skip
        for (kind, name), card in cards.items():
            where, text = f"{kind} in {name}", HOSTILE[kind]
            assert skeleton(card) == harmless[name], where
            self.check_metadata(card, name, text)
            assert not any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") for c in card if c != "\n"), where
            assert TOKEN[3:] not in card, where
            assert "/data/me" not in card, where
            assert "49" not in re.sub("[0-9a-f]{64}", "", card), where
            assert len(card) < 40_000 or text in card, where

    def check_metadata(self, card, name, text):
        kind = DatasetCard if name in ("decomposition", "dictionary") else ModelCard
        metadata = kind(card).data.to_dict()
        assert metadata == yaml.safe_load(card.split("---\n")[1])
        assert str(kind(card)) == card
        assert validate(card) == ([], [])
        assert not {"license", "license_name", "license_link", "language", "base_model"} & set(metadata)
        if name == "model":
            (result, *_) = metadata["model-index"][0]["results"]
            assert result["dataset"]["name"] == templates.sanitize(impersonal(text))

    def test_they_are_still_there_to_read(self, base, tmp_path):
        for name, card in every_card(base, tmp_path / "edited", "a|b<i>*c*_[d](e)").items():
            assert "a|b<i>*c*_[d](e)" in texts(card).replace("\n", ""), name

    def test_without_the_filter_they_would_do_harm(self, base, tmp_path, harmless, monkeypatch):
        def plain(value, limit=200):
            return templates.sanitize(str(value), limit)

        monkeypatch.setitem(templates.environment().filters, "cell", plain)
        monkeypatch.setitem(
            templates.environment().filters,
            "cells",
            lambda values, limit=200: [plain(value, limit) for value in values],
        )
        for kind, text in HARMFUL.items():
            found = every_card(base, tmp_path / "edited", text)
            assert all(skeleton(card) != harmless[name] for name, card in found.items()), kind

    def test_without_the_filter_a_pipe_would_shift_a_table(self, base, tmp_path, monkeypatch):
        text = "a | b || c"
        right = texts(every_card(base, tmp_path / "right", text)["spec"])
        monkeypatch.setitem(templates.environment().filters, "cell", lambda value, limit=200: str(value))
        wrong = texts(every_card(base, tmp_path / "wrong", text)["spec"])
        assert right.count("a | b || c 0") > 2
        assert right.count("a | b || c 0") > wrong.count("a | b || c 0")

    def test_a_fence_is_longer_than_any_in_its_text(self):
        text = "a\n```\n<script>\n``````\n# x"
        assert skeleton(fenced(text)) == skeleton(fenced("a"))
        assert skeleton(f"```\n{text}\n```") != skeleton(fenced("a"))

    def test_alone_on_a_line_they_are_a_paragraph(self):
        paragraph = ["paragraph_open", "inline", "paragraph_close"]
        for kind, text in HOSTILE.items():
            assert [t[0] for t in skeleton(markdown_text(text))] == paragraph, kind
        assert [t[0] for t in skeleton(HOSTILE["list"])] != paragraph  # the control


class TestImpersonal:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("/data/ann/secret/clip", "…/clip"),
            ("base: /data/ann/clip/", "base: …/"),
            ("'~/models/clip'", "'…/clip'"),
            ("C:\\Users\\ann\\clip", "…/clip"),
            ("file:///data/ann/clip", "…/clip"),
            (f"token {TOKEN}.", "token hf_…."),
            ("and/or", "and/or"),
            ("me/clip", "me/clip"),
            ("https://host/a/b", "https://host/a/b"),
            ("sith_hf_something", "sith_hf_something"),
            ("4 / 5 / 6", "4 / 5 / 6"),
        ],
    )
    def test_folders_and_tokens_go_and_nothing_else(self, text, shown):
        assert impersonal(text) == shown

    def test_no_card_names_the_folders_it_was_made_in(self, base, edited):
        recipe = f"{RECIPE}# kept in {edited}, token {TOKEN}\n"
        spec = make_spec(base, settings={**golden.SETTINGS, "encoder": str(base)})
        card = model_card(edited, make_spec(base), repo_id="me/x", recipe=recipe)
        found = [card, spec_card(spec, repo_id="me/x")]
        found.append(decomposition_card(make_decomposition(name=str(base)), repo_id="me/x"))
        found.append(dictionary_card(make_dictionary(encoder=str(base)), repo_id="me/x"))
        for text in found:
            assert str(base.parent) not in text
            assert TOKEN not in text
            assert "tiny-clip" in text
        assert str(base.parent) in str(spec.base.name)  # the control


class TestMetadata:
    def metadata(self, card: str) -> dict[str, Any]:
        assert validate(card) == ([], [])
        return ModelCard(card).data.to_dict()

    def test_of_a_base_on_the_hub(self, base, edited):
        spec = make_spec(base, base=BaseRef("me/clip", REVISION, {}))
        found = self.metadata(model_card(edited, spec, repo_id="me/x", base_card=golden.BASE_CARD))
        assert found["base_model"] == "me/clip"
        assert found["base_model_relation"] == "finetune"
        assert found["license"] == "mit"
        assert found["library_name"] == "transformers"
        assert found["tags"] == ["sith-hf", "clip", "model-editing"]
        assert "model-index" not in found

    @pytest.mark.parametrize(
        ("name", "revision"),
        [
            ("/models/clip", None),
            ("models/clip", None),
            ("models/clip", "main"),
            ("clip", REVISION),
            ("../clip", REVISION),
            ("/a/clip", REVISION),
            ("in memory", None),
        ],
    )
    def test_a_base_elsewhere_is_not_named_there(self, base, edited, name, revision):
        found = self.metadata(model_card(edited, make_spec(base, base=BaseRef(name, revision, {})), repo_id="me/x"))
        assert not {"base_model", "base_model_relation", "license"} & set(found)

    def test_a_local_copy_of_a_base_on_the_hub(self, base, edited):
        card = model_card(edited, make_spec(base), repo_id="me/x", base_ids=["them/clip"])
        assert self.metadata(card)["base_model"] == "them/clip"
        assert 'verify("me/x", "path/to/the/base")' in card
        assert "An edited copy of tiny-clip." in card
        assert "name them/clip as where it comes from; the two were not compared" in card
        assert "at revision" not in card
        with pytest.raises(InputError, match="cannot be the id"):
            model_card(edited, make_spec(base), repo_id="me/x", base_ids=["/a/clip"])

    @pytest.mark.parametrize(
        ("config", "pipeline"),
        [
            ({"model_type": "clip", "architectures": ["CLIPModel"]}, "zero-shot-image-classification"),
            ({"model_type": "clip_vision_model", "architectures": ["CLIPVisionModel"]}, "image-feature-extraction"),
            (
                {"model_type": "clip_vision_model", "architectures": ["CLIPVisionModelWithProjection"]},
                "image-feature-extraction",
            ),
        ],
    )
    def test_the_pipeline_is_one_that_works(self, base, edited, tmp_path, config, pipeline):
        (tmp_path / "sith").mkdir()
        (tmp_path / "sith/edit_spec.safetensors").write_bytes((edited / "sith/edit_spec.safetensors").read_bytes())
        (tmp_path / "config.json").write_text(json.dumps(config))
        card = model_card(tmp_path, make_spec(base), repo_id="me/x")
        assert self.metadata(card)["pipeline_tag"] == pipeline
        assert f"import {config['architectures'][0]}" in card

    def test_every_class_has_the_task_of_what_it_returns(self):
        tasks = {
            name: card_facts.pipeline_of(name)
            for each in FAMILIES
            for names in each.model_types.values()
            for name in names
        }
        assert (
            tasks["SiglipModel"] == tasks["OpenClipModel"] == tasks["AltCLIPModel"] == "zero-shot-image-classification"
        )
        assert tasks["OwlViTForObjectDetection"] == tasks["Owlv2ForObjectDetection"] == "zero-shot-object-detection"
        assert tasks["LlavaForConditionalGeneration"] == "image-text-to-text"
        assert tasks["Dinov2ForImageClassification"] == "image-classification"
        assert tasks["CLIPSegForImageSegmentation"] == "image-segmentation"
        assert {tasks[name] for name in tasks if "Text" in name} == {"feature-extraction"}
        assert {tasks[name] for name in tasks if "Vision" in name} == {"image-feature-extraction"}
        assert tasks["Dinov2Model"] == tasks["DINOv3ViTModel"] == "image-feature-extraction"

    def test_measured_results_become_a_model_index(self, base, edited):
        card = model_card(edited, make_spec(base), repo_id="me/less-sea", evaluation=EVALUATION)
        (index,) = self.metadata(card)["model-index"]
        assert index["name"] == "less-sea"
        values = [metric["value"] for result in index["results"] for metric in result["metrics"]]
        assert values == [0.75, 0.9375, 0.734375]  # of the edited model, not of the base
        assert {result["dataset"]["type"] for result in index["results"]} == {"me/boats", "pets-zero-shot"}

    @pytest.mark.parametrize(
        ("card", "kept"),
        [
            ({"license": "apache-2.0"}, {"license": "apache-2.0"}),
            ({"license": ["mit", "cc-by-4.0"]}, {"license": ["mit", "cc-by-4.0"]}),
            (
                {"license": "other", "license_name": "my licence", "license_link": "https://a.b/c"},
                {"license": "other", "license_name": "my licence", "license_link": "https://a.b/c"},
            ),
            ({"license": "mit", "license_link": "https://a.b/c"}, {"license": "mit"}),
            ({"license": "other", "license_link": "javascript:x"}, {"license": "other"}),
            ({"license": {"a": "b"}}, {}),
            ({"license": 3}, {}),
            ({"license": ["mit", "x y"]}, {}),
            ({"license": []}, {}),
            ({"license": "mit\n---\n# x"}, {}),
            ({"language": ["en", "de"]}, {"language": ["en", "de"]}),
            (None, {}),
            ("text", {}),
        ],
    )
    def test_what_is_inherited(self, card, kept):
        assert card_facts.inherited(card) == kept

    def test_the_viewer_finds_the_rows_of_a_dataset(self):
        for card in (
            decomposition_card(make_decomposition(), repo_id="me/x"),
            dictionary_card(make_dictionary(), repo_id="me/x"),
        ):
            (config,) = DatasetCard(card).data.to_dict()["configs"]
            assert config["data_files"] == [{"split": "train", "path": "data/train.parquet"}]


class TestWhatCardsSay:
    def test_the_sentence_counts(self, base):
        assert card_facts.summary(make_spec(base)) == (
            "4 singular vectors in 3 attention heads of layers 0 and 2 of the vision tower have new gains: 1 removed, "
            "1 inverted, 1 amplified and 1 turned down"
        )
        assert card_facts.summary(make_spec(base, [(1, 0, 0, 0.0)])) == (
            "1 singular vector in 1 attention head of layer 1 of the vision tower has a new gain: 1 removed"
        )

    def test_topics_weigh_the_change(self, base):
        spec = make_spec(base, [(0, 0, 0, 0.99), (0, 0, 4, 3.0)], words=["a", "b", "c", "d", "e"])
        assert card_facts.topics(spec, 1) == ["b"]  # 0.75 on both poles' side of the larger change
        assert card_facts.topics(make_spec(base, provenance=False)) == []

    def test_not_evaluated(self, base, edited):
        card = model_card(edited, make_spec(base), repo_id="me/x")
        assert "not evaluated" in card
        assert "No collateral was measured" in card
        for empty in ({}, {"results": []}, {"results": [], "collateral": None}):
            assert model_card(edited, make_spec(base), repo_id="me/x", evaluation=empty) == card

    def test_evaluated(self, base, edited):
        card = model_card(edited, make_spec(base), repo_id="me/x", evaluation=EVALUATION)
        assert "not evaluated" not in card
        assert "No collateral" not in card
        assert "**me/boats, test**" in card
        assert (
            "| worst group accuracy | \N{EN DASH} | 0.500 | 0.375 | 0.625 | 0.750 | +0.250 [+0.125, +0.375] |" in card
        )
        assert "| accuracy | 1,000 | 0.875 | 0.938 | +0.062 |" in card
        only = model_card(edited, make_spec(base), repo_id="me/x", evaluation={"collateral": EVALUATION["collateral"]})
        assert "not evaluated" in only
        assert "No collateral" not in only

    def test_parts_of_an_edit_have_a_column_each(self, base, edited):
        rows = [{"dataset": "a", "metric": "b", "base": 0.5, "edited": 1.0, "parts": parts}
                for parts in ({"vision only": 0.25, "text only": 0.75}, {"text only": 0.5})]  # fmt: skip
        card = model_card(edited, make_spec(base), repo_id="me/x", evaluation={"results": rows, "collateral": []})
        assert "| metric | samples | base | vision only | text only | edited | difference [95 % interval] |" in card
        assert "|---|---:|---:|---:|---:|---:|---|" in card
        assert "| b | \N{EN DASH} | 0.500 | 0.250 | 0.750 | 1.000 | +0.500 |" in card
        assert "| b | \N{EN DASH} | 0.500 | \N{EN DASH} | 0.500 | 1.000 | +0.500 |" in card

    @pytest.mark.parametrize(
        "evaluation",
        [
            [],
            {"result": []},
            {"results": [{"dataset": "a", "metric": "b", "base": 1.0}]},
            {"results": [{"dataset": "a", "metric": "b", "base": 1.0, "edited": float("nan")}]},
            {"results": [{"dataset": "a", "metric": "b", "base": 1.0, "edited": "good"}]},
            {"results": [{"dataset": "a", "metric": "b", "base": True, "edited": 1.0}]},
            {"results": [{"dataset": "", "metric": "b", "base": 1.0, "edited": 1.0}]},
            {"results": [{"dataset": "a", "metric": "b", "base": 1.0, "edited": 1.0, "samples": -1}]},
            {"results": [{"dataset": "a", "metric": "b", "base": 1.0, "edited": 1.0, "unit": "%"}]},
            {"results": ["a"]},
            {"results": [{"dataset": "a", "metric": "b", "base": 1.0, "edited": 1.0, "parts": {"x": "y"}}]},
            {
                "results": [
                    {"dataset": "a", "metric": "b", "base": 1.0, "edited": 1.0, "parts": dict.fromkeys("abcdefgh", 1.0)}
                ]
            },
        ],
    )
    def test_what_is_no_evaluation_is_refused(self, base, edited, evaluation):
        with pytest.raises(InputError, match="the evaluation for the card"):
            model_card(edited, make_spec(base), repo_id="me/x", evaluation=evaluation)

    def test_a_long_table_is_folded_and_a_very_long_one_cut(self, base, monkeypatch):
        assert "<summary>The 24 vectors" in spec_card(make_spec(base, MANY), repo_id="me/x")
        assert "vectors</summary>" not in spec_card(make_spec(base), repo_id="me/x")
        monkeypatch.setattr(card_facts, "CUT", 21)
        card = spec_card(make_spec(base, MANY), repo_id="me/x")
        assert "3 more vectors are in" in card
        assert "<summary>The 24 vectors" in card

    def test_one_pole_alone(self, base):
        spec = make_spec(base)
        assert spec.provenance is not None
        half = replace(spec.provenance, explanations=tuple(poles[:1] for poles in spec.provenance.explanations))
        assert "| \N{EN DASH} | \N{EN DASH} |" in spec_card(replace(spec, provenance=half), repo_id="me/x")

    def test_an_edit_upon_an_edit(self, base, edited, tmp_path):
        again = make_spec(edited, [(1, 1, 1, 0.0)])
        save_edited(edited, again, tmp_path / "twice")
        assert "had been edited before" in model_card(tmp_path / "twice", again, repo_id="me/x")
        assert "had been edited before" not in model_card(edited, make_spec(base), repo_id="me/x")

    @pytest.mark.parametrize("repo_id", ["", "a b", "me/x\n# y", "a/b/c", '"x"', "../x", "me/é", 3])
    def test_what_is_no_repository_is_refused(self, base, edited, repo_id):
        makers = [
            lambda: model_card(edited, make_spec(base), repo_id=repo_id),
            lambda: spec_card(make_spec(base), repo_id=repo_id),
            lambda: decomposition_card(make_decomposition(), repo_id=repo_id),
            lambda: dictionary_card(make_dictionary(), repo_id=repo_id),
        ]
        for make in makers:
            with pytest.raises(InputError, match="cannot be the id"):
                make()

    def test_another_edit_than_the_folder_holds_is_refused(self, base, edited):
        with pytest.raises(InputError, match="not contain the edit"):
            model_card(edited, make_spec(base) * 0.5, repo_id="me/x")

    def test_no_edited_checkpoint_is_refused(self, base, tmp_path):
        with pytest.raises(InputError, match="edit_spec"):
            model_card(base, make_spec(base), repo_id="me/x")
        with pytest.raises(InputError, match=r"config\.json"):
            model_card(tmp_path, make_spec(base), repo_id="me/x")

    @pytest.mark.parametrize(
        "config",
        ["", "[]", "3", "{", '{"model_type": "clip", "vision_config": 3}', '{"model_type": "clip", "architectures": 3}',
         '{"model_type": "clip", "vision_config": {"num_hidden_layers": "12"}}',
         '{"model_type": "clip", "vision_config": {"num_hidden_layers": 100000000}}'],
    )  # fmt: skip
    def test_a_config_that_is_none_is_refused(self, base, tmp_path, config):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(InputError, match=r"config\.json"):
            card_facts.config_of(tmp_path, make_spec(base))

    def test_another_family_is_refused(self, base, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        with pytest.raises(UnsupportedModel):
            card_facts.config_of(tmp_path, make_spec(base))


LAYERS = {"vision": 3}
TOP = 236  # where the first grid begins, in pixels


class TestPicture:
    def pixels(self, png: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def test_it_is_a_png_of_the_same_bytes(self, base):
        spec = make_spec(base)
        assert edit_map(spec, LAYERS) == edit_map(spec, LAYERS)
        assert edit_map(spec, LAYERS)[:8] == b"\x89PNG\r\n\x1a\n"
        assert edit_map(spec, LAYERS) != edit_map(spec * 0.5, LAYERS)

    def test_every_gain_has_its_colour_in_it(self, base):
        spec = make_spec(base, [(0, 0, 0, 0.0), (1, 1, 1, -1.0), (2, 2, 2, 2.0)])
        image = self.pixels(edit_map(spec, LAYERS))
        cells = image[TOP:-190, 108:-76]
        for gain in (0.0, -1.0, 2.0):
            assert (cells == colour(gain)).all(axis=-1).sum() > 300
        assert not (cells == colour(3.0)).all(axis=-1).any()

    def test_unedited_cells_are_empty(self, base):
        image = self.pixels(edit_map(make_spec(base, [(2, 3, 0, 0.0)]), LAYERS))
        cell = 76
        assert (image[TOP + 10 : TOP + cell - 10, 108 + 10 : 108 + cell - 10] == ImageColor.getrgb(EMPTY)).all()
        last = image[TOP + 2 * cell :][:cell, 108 + 3 * cell :][:, :cell]
        assert (last == colour(0.0)).all(axis=-1).any()

    @pytest.mark.parametrize(("layers", "heads"), [(12, 12), (24, 16), (48, 16), (3, 4), (1, 1), (12, 64)])
    def test_every_size_of_tower(self, base, layers, heads):
        spec = make_spec(base, [(0, 0, n, 0.0) for n in range(31)])
        place = {"layer": torch.full_like(spec.layer, layers - 1), "head": torch.full_like(spec.head, heads - 1)}
        spec = replace(spec, **place, write=torch.zeros(31, heads * 4), row=torch.zeros(31, 4))
        image = Image.open(io.BytesIO(edit_map(spec, {"vision": layers})))
        assert 640 < image.width < 4000
        assert image.height < 3000

    def test_an_edit_of_a_larger_tower_is_refused(self, base):
        spec = make_spec(base)
        narrow = replace(spec, write=spec.write[:, :24])
        for wrong, layers in ((spec, 2), (narrow, 3)):
            with pytest.raises(InputError, match="does not fit a tower"):
                edit_map(wrong, {"vision": layers})

    def test_the_scale_is_readable_with_any_colour_vision(self):
        # Blue less red falls all the way, with any kind of colour vision that keeps blue from orange; and both
        # arms darken towards their ends.
        gains = np.linspace(SCALE[0][0], SCALE[-1][0], 81)
        found = np.array([colour(gain) for gain in gains], dtype=float)
        light = found @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(light[gains <= 1]) > 0).all()
        assert (np.diff(light[gains >= 1]) < 0).all()
        assert (found[gains < 0.9, 2] > found[gains < 0.9, 0]).all()
        assert (found[gains > 1.1, 2] < found[gains > 1.1, 0]).all()
        assert colour(-7) == colour(-1)
        assert colour(1e300) == colour(3)


class TestGoldenFiles:
    @pytest.fixture(scope="class")
    def written(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("golden")
        golden.write_golden(folder, tmp_path_factory.mktemp("work"))
        return folder

    @pytest.mark.parametrize("name", sorted(p.name for p in HERE.iterdir() if p.suffix in (".md", ".png")))
    def test_they_come_out_the_same(self, written, name):
        # Another version of Pillow may pack or draw the picture a little differently.
        assert (written / name).read_bytes() == (HERE / name).read_bytes(), (
            "python -m tests.cards.golden writes them anew"
        )

    def test_none_is_missing(self, written):
        assert {p.name for p in written.iterdir()} == {p.name for p in HERE.iterdir() if p.suffix in (".md", ".png")}

    def test_the_card_follows_from_spec_and_weights(self, base, edited):
        first = model_card(edited, make_spec(base), repo_id="me/x", evaluation=EVALUATION, recipe=RECIPE)
        again = model_card(
            edited, EditSpec.from_pretrained(edited), repo_id="me/x", evaluation=EVALUATION, recipe=RECIPE
        )
        assert first == again
        assert first != model_card(edited, make_spec(base), repo_id="me/y", evaluation=EVALUATION, recipe=RECIPE)


def test_a_decomposition_with_drivers_has_both_readings() -> None:
    plain = make_decomposition()
    shape = (*plain.fidelity.shape, 2)
    concept, correlation = torch.full(shape, -1), torch.zeros(shape)
    concept[-1, 0, 0, 0], correlation[-1, 0, 0, 0] = torch.tensor([1, 0]), torch.tensor([0.75, 0.5])
    images = {"title": "my|pictures", "count": 300}
    drivers = Drivers(concept, correlation, ("red * door", "sea"), images)
    found = replace(plain, drivers=drivers, total_cosine=torch.full(plain.fidelity.shape[:3], 0.5))
    body, before = (decomposition_card(each, repo_id="me/x") for each in (found, plain))
    rows = [line for line in body.splitlines() if line.startswith("| 11 | 0 | 0 |")]
    assert rows[0].endswith("| sea 0.75, red \\* door 0.50 |")
    assert rows[1].endswith("| *silent* |")
    assert "over 300 images of my\\|pictures" in body
    assert "`total_cosine`" in body
    assert "driven" not in before
    assert "total_cosine" not in before
