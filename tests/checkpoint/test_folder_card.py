"""An edited folder describes itself: its card, the card of its base, and the command that shows or renews it."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from huggingface_hub import ModelCard

from sith_hf.checkpoint import folder_card, revert, save_edited, verify, write_card
from sith_hf.checkpoint.card import card_metadata
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
        ran = succeeded(sith("card", edited, "--write"))
        assert ran.out == f"{edited / 'README.md'}\n"
        after = (edited / "README.md").read_text()
        assert is_generated(after)
        assert "boats" in after
        succeeded(sith("card", edited, "--write"))
        assert (edited / "README.md").read_text() == after

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

    def test_folders_of_another_kind(self, base, edited, tmp_path):
        assert "edit_spec.safetensors" in refused(sith("card", base))
        assert "edit_spec.safetensors" in refused(sith("card", tmp_path / "none"))
        refused(sith("card", edited, "--overwrite"))
        (edited / "sith" / "edit_spec.safetensors").write_bytes(b"short")
        refused(sith("card", edited))
