"""An edited folder describes itself: its card, the card of its base, and the command that shows or renews it."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from sith_hf.checkpoint import folder_card, revert, save_edited, verify, write_card
from sith_hf.checkpoint.card import card_metadata
from sith_hf.concepts import ConceptDictionary
from sith_hf.editor import SithEditor
from sith_hf.edits import EditSpec
from sith_hf.errors import InputError
from sith_hf.hub import is_generated
from tests.support import tiny
from tests.support.cli import refused, sith, succeeded
from tests.support.hub.cards import validate
from tests.support.made import earlier_releases
from tests.support.raw import random_spec, tree

CARD = b"---\r\nlicense: mit\r\nlanguage: [en]\r\n---\r\n# The base \xff\n"
RESULTS = {"results": [{"dataset": "boats", "metric": "accuracy", "base": 0.5, "edited": 0.75}], "collateral": []}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tiny.save_clip(tmp_path_factory.mktemp("secret-place") / "clip")
    (folder / "README.md").write_bytes(CARD)
    return folder


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "edited"
    save_edited(base, random_spec(base), folder)
    return folder


@pytest.fixture
def edited(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "edited")


class TestSaved:
    def test_the_card_is_of_the_edit(self, saved):
        text = (saved / "README.md").read_text(encoding="utf-8")
        assert is_generated(text)
        assert validate(text) == ([], [])
        metadata = ModelCard(text).data.to_dict()
        assert (metadata["license"], metadata["language"]) == ("mit", ["en"])
        assert "# clip, edited" in text
        assert "(sith/edit_map.png)" in text
        assert (saved / "sith" / "edit_map.png").read_bytes().startswith(b"\x89PNG")
        assert "secret-place" not in text
        assert (saved / "sith" / "base" / "README.md").read_bytes() == CARD

    def test_its_name_and_place_do_not_matter(self, base, saved, tmp_path):
        for name in ("other name", "edited"):
            save_edited(base, random_spec(base), tmp_path / "deeper" / name)
            assert tree(tmp_path / "deeper" / name) == tree(saved)

    def test_verify_and_revert(self, base, saved, tmp_path):
        assert verify(saved, base).problems == ()
        revert(saved, tmp_path / "back")
        assert (tmp_path / "back" / "README.md").read_bytes() == CARD
        assert not (tmp_path / "back" / "sith").exists()

    def test_changed_by_hand_it_is_still_verified_and_reverted(self, base, edited, tmp_path):
        (edited / "README.md").write_text("# Mine\n")
        assert verify(edited, base).ok
        revert(edited, tmp_path / "back")
        assert (tmp_path / "back" / "README.md").read_bytes() == CARD

    def test_the_card_of_the_base_is_verified(self, base, edited):
        (edited / "sith" / "base" / "README.md").write_bytes(CARD + b" ")
        assert verify(edited, base).problems == ("file README.md differs from the base's",)
        (edited / "sith" / "base" / "README.md").unlink()
        assert verify(edited, base).problems == ("file README.md of the base is missing",)

    def test_a_base_without_a_card(self, tmp_path):
        tiny.vision_model().save_pretrained(tmp_path / "base")
        save_edited(tmp_path / "base", random_spec(tmp_path / "base"), tmp_path / "edited")
        assert not (tmp_path / "edited" / "sith" / "base").exists()
        assert verify(tmp_path / "edited", tmp_path / "base").ok
        revert(tmp_path / "edited", tmp_path / "back")
        assert not (tmp_path / "back" / "README.md").exists()

    def test_edits_of_edits(self, base, saved, tmp_path):
        first = (saved / "README.md").read_bytes()
        save_edited(saved, random_spec(saved, [(1, 2, 3, 0.0)], seed=7), tmp_path / "twice")
        assert (tmp_path / "twice/sith/base/README.md").read_bytes() == first
        assert (tmp_path / "twice/sith/base/base/README.md").read_bytes() == CARD
        assert verify(tmp_path / "twice", saved).ok
        revert(tmp_path / "twice", tmp_path / "once")
        assert tree(tmp_path / "once", without=["model", "sith/edit_spec"]) == tree(
            saved, without=["model", "sith/edit_spec"]
        )
        revert(tmp_path / "once", tmp_path / "back")
        assert (tmp_path / "back" / "README.md").read_bytes() == CARD

    def test_a_card_of_fifty_megabytes(self, base, tmp_path):
        source = shutil.copytree(base, tmp_path / "base")
        (source / "README.md").write_text("---\nlicense: mit\ntitle: " + "x" * 50_000_000 + "\n---\n")
        before = time.process_time()
        save_edited(source, random_spec(source), tmp_path / "edited")
        assert time.process_time() - before < 20  # a YAML parser takes minutes
        assert (tmp_path / "edited/sith/base/README.md").stat().st_size > 50_000_000
        assert "license" not in ModelCard.load(tmp_path / "edited" / "README.md").data.to_dict()

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("---\nlicense: mit\n---\n# x", {"license": "mit"}),
            ("\ufeff---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
            ("# x", None),
            ("---\n- a\n---\n", None),
            ("---\na: [\n---\n", None),
            ("---\na: " + "[" * 5000 + "\n---\n", None),
            ("---\nlicense: mit\n", None),
        ],
    )
    def test_metadata(self, tmp_path, text, found):
        (tmp_path / "x.md").write_bytes(text.encode())
        assert card_metadata(tmp_path / "x.md") == found


class TestBases:
    """A folder whose files name where it comes from; a path is never a base."""

    @pytest.fixture
    def named(self, base, tmp_path):
        def save(card: str | None = None, name: object = None) -> dict[str, object]:
            source = shutil.copytree(base, tmp_path / f"source-{len(list(tmp_path.iterdir()))}")
            if card is not None:
                (source / "README.md").write_text(f"---\n{card}\n---\n# Mine\n")
            config = json.loads((source / "config.json").read_text()) | (
                {} if name is None else {"_name_or_path": name}
            )
            (source / "config.json").write_text(json.dumps(config))
            target = source.with_name(f"{source.name}-edited")
            save_edited(source, random_spec(source), target)
            text = (target / "README.md").read_text()
            assert validate(text) == ([], [])
            metadata = ModelCard(text).data.to_dict()
            assert ("base_model" in metadata) == ("as where it comes from" in text)
            return metadata

        return save

    @pytest.mark.parametrize(
        ("card", "name", "found"),
        [
            ("base_model: openai/clip", None, "openai/clip"),
            ("base_model:\n- openai/clip", None, "openai/clip"),
            ("base_model: [a/x, b/y, a/x]", None, ["a/x", "b/y"]),
            ("base_model: openai/clip", "me/other", "openai/clip"),
            ("base_model: /data/me/clip", "openai/clip", "openai/clip"),
            ("license: mit", "openai/clip", "openai/clip"),
            (None, "openai/clip", "openai/clip"),
            ("base_model: ./models/clip", None, None),
            ("base_model: ../clip", None, None),
            ("base_model: ~/clip", None, None),
            ("base_model: clip", None, None),
            ("base_model: a/b/c", None, None),
            ("base_model: C:\\me\\clip", None, None),
            ("base_model: 'me/x\n# y'", None, None),
            ("base_model: {a: b}", None, None),
            ("base_model: 3", None, None),
            ("base_model: [[a/b]]", 7, None),
        ],
    )
    def test_they_are_named(self, named, card, name, found):
        metadata = named(card, name)
        assert metadata.get("base_model") == found
        assert metadata.get("base_model_relation") == (None if found is None else "finetune")

    def test_a_folder_of_this_machine_is_none(self, named, tmp_path, monkeypatch):
        (tmp_path / "models" / "clip").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        assert "base_model" not in named("base_model: models/clip", "models/clip")
        assert named("base_model: models/other")["base_model"] == "models/other"

    def test_an_edited_base_passes_it_on(self, base, tmp_path):
        commit = "0123456789abcdef0123456789abcdef01234567"
        spec = random_spec(base)
        pinned = replace(spec, base=replace(spec.base, name="me/clip", revision=commit))
        save_edited(base, pinned, tmp_path / "once")
        (tmp_path / "once" / "README.md").write_text("# Mine\n")
        save_edited(tmp_path / "once", random_spec(tmp_path / "once", seed=7), tmp_path / "twice")
        assert ModelCard.load(tmp_path / "twice" / "README.md").data.base_model == "me/clip"

    def test_a_snapshot_in_the_cache_of_the_hub_is_its_commit(self, base, tmp_path):
        commit = "0123456789abcdef0123456789abcdef01234567"
        for name, found in (
            (f"models--me--clip/snapshots/{commit}", "me/clip"),
            ("models--me--clip/snapshots/x", None),
        ):
            folder = shutil.copytree(base, tmp_path / name)
            editor = SithEditor.from_pretrained(folder)
            editor.decompose(ConceptDictionary.from_texts(list("abcde")), layers=[0], rank=1)
            spec = editor.edit().vectors(0.0, heads=[0]).spec
            assert (spec.base.name, spec.base.revision) == ((found, commit) if found else ("x", None))
            save_edited(folder, spec, tmp_path / f"edited {found}")
            card = (tmp_path / f"edited {found}" / "README.md").read_text()
            assert ModelCard(card).data.to_dict().get("base_model") == found
            assert (f'revision="{commit}"' in card) == (found is not None)


class TestEarlierReleases:
    @pytest.fixture
    def folders(self, saved, tmp_path):
        return earlier_releases(saved, CARD, tmp_path / "earlier")

    @pytest.mark.parametrize("kind", ["saved", "published"])
    def test_they_verify_revert_and_are_edited_again(self, base, folders, tmp_path, kind):
        folder = folders[kind]
        assert verify(folder, base).problems == ()
        revert(folder, tmp_path / "back")
        assert (tmp_path / "back" / "README.md").read_bytes() == CARD
        assert not (tmp_path / "back" / "sith").exists()
        save_edited(folder, random_spec(folder, [(1, 2, 3, 0.0)], seed=7), tmp_path / "twice")
        assert verify(tmp_path / "twice", folder).problems == ()
        assert (tmp_path / "twice/sith/base/base/README.md").read_bytes() == CARD
        revert(tmp_path / "twice", tmp_path / "once")
        assert EditSpec.from_pretrained(tmp_path / "once") == EditSpec.from_pretrained(folder)
        revert(tmp_path / "once", tmp_path / "again")
        assert (tmp_path / "again" / "README.md").read_bytes() == CARD

    def test_their_cards(self, saved, folders):
        text = folder_card(saved)
        assert folder_card(folders["saved"]) == folder_card(folders["published"]) == text
        with pytest.raises(InputError, match="earlier release"):
            write_card(folders["saved"], overwrite=True)
        assert (folders["saved"] / "README.md").read_bytes() == CARD


class TestCommand:
    def test_it_shows_what_lies_there(self, edited):
        ran = succeeded(sith("card", edited))
        assert (edited / "README.md").read_text().startswith(ran.out.rstrip())
        assert succeeded(sith("card", edited, "--json")).data == {"card": ran.out, "written": None}

    def test_it_renews_the_card_after_an_evaluation(self, edited):
        (edited / "sith" / "evaluation.json").write_text(json.dumps(RESULTS))
        before = (edited / "README.md").read_text()
        assert "boats" not in before
        assert not (edited / "sith" / "before_after.png").exists()
        ran = succeeded(sith("card", edited, "--write"))
        assert ran.out == f"{edited / 'README.md'}\n"
        after = (edited / "README.md").read_text()
        assert is_generated(after)
        assert "boats" in after
        assert "base to edited\\: accuracy 0.500 to 0.750](sith/before_after.png)" in after
        assert (edited / "sith" / "before_after.png").read_bytes().startswith(b"\x89PNG")
        succeeded(sith("card", edited, "--write"))
        assert (edited / "README.md").read_text() == after
        (edited / "sith" / "evaluation.json").unlink()
        succeeded(sith("card", edited, "--write"))
        assert (edited / "README.md").read_text() == before
        assert not (edited / "sith" / "before_after.png").exists()

    def test_a_card_changed_by_hand_is_kept(self, edited):
        before = (edited / "README.md").read_bytes()
        (edited / "README.md").write_text("# Mine\n")
        assert "--overwrite" in refused(sith("card", edited, "--write"))
        assert (edited / "README.md").read_text() == "# Mine\n"
        assert "# clip, edited" in succeeded(sith("card", edited)).out
        succeeded(sith("card", edited, "--write", "--overwrite"))
        assert (edited / "README.md").read_bytes() == before

    @pytest.mark.parametrize("text", ["{", "[]", '{"results": 3}', "[" * 10**5])
    def test_a_damaged_evaluation(self, edited, text):
        (edited / "sith" / "evaluation.json").write_text(text)
        before = tree(edited)
        refused(sith("card", edited, "--write"))
        assert tree(edited) == before

    def test_the_output_of_evaluate_is_refused_with_what_to_write_instead(self, edited):
        (edited / "sith" / "evaluation.json").write_text('{"format": "sith-hf/evaluation", "version": 1, "tasks": []}')
        before = tree(edited)
        assert "Evaluation.from_file(...).card()" in refused(sith("card", edited, "--write"))
        assert tree(edited) == before

    def test_folders_of_another_kind(self, base, edited, tmp_path):
        assert "edit_spec.safetensors" in refused(sith("card", base))
        assert "edit_spec.safetensors" in refused(sith("card", tmp_path / "none"))
        refused(sith("card", edited, "--overwrite"))
        (edited / "sith" / "edit_spec.safetensors").write_bytes(b"short")
        refused(sith("card", edited))
