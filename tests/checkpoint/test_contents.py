"""Only what belongs to a checkpoint is copied: people's folders, links, pickles, tokens, names and special files."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertTokenizer, Trainer, TrainingArguments

from sith_hf.checkpoint import contents, folder_card, revert, save_edited, verify
from sith_hf.checkpoint.contents import HIDDEN, OTHER_WEIGHTS, SPARE, model_files
from sith_hf.errors import InputError
from sith_hf.towers import Checkpoint
from tests.support import tiny
from tests.support.raw import random_spec, tree

TOKEN = "hf_" + "aB3dE" * 7
CARD = "---\nlicense: mit\n---\n![a](pic.png) <img src='./img/b%20c.jpg'>\n"


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny.save_clip(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def spec(saved):
    return random_spec(saved)


@pytest.fixture
def base(saved, tmp_path):
    """A checkpoint with a card, two pictures that it names, and a licence."""
    folder = shutil.copytree(saved, tmp_path / "base")
    (folder / "img").mkdir()
    for name, text in {"README.md": CARD, "pic.png": "1", "img/b c.jpg": "2", "LICENSE": "MIT"}.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("my secret")
    return path


@pytest.fixture
def save(base, spec, tmp_path):
    """Save an edit of the base; the saved folder must verify, revert to the base's card, and hold no secret or link."""

    def call(*include):
        target = tmp_path / "edited"
        done = save_edited(base, spec, target, include=include)
        assert not [path for path in target.rglob("*") if path.is_symlink()]
        everything = b"".join(path.read_bytes() for path in target.rglob("*") if path.is_file())
        assert b"my secret" not in everything
        assert TOKEN.encode() not in everything
        assert verify(target, base).problems == ()
        revert(target, tmp_path / "back")
        assert tree(tmp_path / "back").get("README.md") == tree(base).get("README.md")
        return done

    return call


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert TOKEN not in message


def copied(done):
    return {name for name in tree(done.folder) if not name.startswith("sith/")}


class TestFolders:
    def test_a_card_names_its_pictures_and_no_others(self, base, save):
        (base / "img" / "other.png").write_text("3")
        done = save()
        assert {"README.md", "pic.png", "img/b c.jpg", "LICENSE", "config.json", "tokenizer.json"} <= copied(done)
        assert done.reasons == {"img/other.png": SPARE}

    def test_of_a_trainer(self, base, save, tmp_path):
        model, arguments = torch.nn.Linear(2, 2), TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True)
        Trainer(model=model, args=arguments).save_model(str(tmp_path / "run"))
        shutil.copyfile(tmp_path / "run" / "training_args.bin", base / "training_args.bin")
        (base / "checkpoint-10").mkdir()
        shutil.copyfile(base / "model.safetensors", base / "checkpoint-10" / "model.safetensors")
        torch.save({}, base / "optimizer.pt")
        (base / "trainer_state.json").write_text("{}")
        done = save("trainer_state.json")
        assert set(done.left_out) == {"training_args.bin", "optimizer.pt", "checkpoint-10/model.safetensors"}
        assert "trainer_state.json" in copied(done)

    def test_of_a_programmer(self, base, save):
        for name in (".git/config", ".ssh/id_rsa", ".env", ".gitattributes", "notebook.ipynb", "src/.cache/x"):
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_text(TOKEN)
        done = save()
        hidden = {".git/", ".ssh/", ".env", ".gitattributes", "src/.cache/"}
        assert done.reasons == {**dict.fromkeys(hidden, HIDDEN), "notebook.ipynb": SPARE}

    def test_a_snapshot_of_the_hub_s_cache(self, base, spec, tmp_path):
        repo = tmp_path / "models--me--clip"
        folder, blobs = repo / "snapshots" / "abc", repo / "blobs"
        blobs.mkdir(parents=True)
        for number, name in enumerate(sorted(tree(base))):
            shutil.copyfile(base / name, blobs / f"{number:040x}")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(os.path.relpath(blobs / f"{number:040x}", (folder / name).parent))
        save_edited(folder, spec, tmp_path / "edited")
        save_edited(base, spec, tmp_path / "control")
        assert tree(tmp_path / "edited") == tree(tmp_path / "control")
        # A blob of another repository is outside.
        (tmp_path / "other" / "blobs").mkdir(parents=True)
        shutil.copyfile(base / "LICENSE", tmp_path / "other" / "blobs" / "1")
        (folder / "NOTICE").symlink_to(tmp_path / "other" / "blobs" / "1")
        assert "link out" in contents(Checkpoint.read(folder)).left_out["NOTICE"]

    def test_the_vocabulary_of_the_tokenizer_that_the_folder_names(self, tmp_path):
        (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
        BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
        assert "vocab.txt" in model_files(tmp_path)
        for damaged in ("[]", "{", '{"tokenizer_class": 3}', '{"tokenizer_class": "os"}', '{"tokenizer_class": "No"}'):
            (tmp_path / "tokenizer_config.json").write_text(damaged)
            assert "vocab.txt" not in model_files(tmp_path)
            assert {"vocab.json", "merges.txt", "tokenizer.json"} <= model_files(tmp_path)
        BertConfig().save_pretrained(tmp_path)  # config.json, by the library itself
        assert {path.name for path in tmp_path.glob("config.json")} <= model_files(tmp_path)


class TestLinks:
    def test_they_are_never_followed_out(self, base, save, secret):
        for name, target in {
            "notes.dat": secret, "LICENSE.md": secret, "NOTICE": "img/../../secret.txt", "COPYING": "chain",
            "chain": secret, "loop": "loop", "pic.png": secret, "folder": base.parent,
        }.items():  # fmt: skip
            (base / name).unlink(missing_ok=True)
            (base / name).symlink_to(target)
        done = save()
        assert set(done.left_out) == {
            "notes.dat", "LICENSE.md", "NOTICE", "COPYING", "chain", "loop", "pic.png", "folder/",
        }  # fmt: skip
        for name in ("notes.dat", "chain", "loop", "folder/*"):
            refused(lambda name=name: save(name), name)

    def test_inside_the_folder_they_are_files(self, base, save):
        (base / "text.txt").write_text("inside")
        (base / "LICENSE.md").symlink_to("LICENSE")
        (base / "alias.txt").symlink_to("text.txt")
        (base / ".env").write_text(TOKEN)
        (base / "NOTICE").symlink_to(".env")
        done = save("alias.txt")
        assert {"LICENSE.md", "alias.txt"} <= copied(done)
        assert set(done.left_out) == {"text.txt", ".env", "NOTICE"}

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
    def test_a_file_that_the_model_needs_is_no_link(self, base, spec, tmp_path, name):
        shutil.move(base / name, tmp_path / name)
        (base / name).symlink_to(tmp_path / name)
        refused(lambda: save_edited(base, spec, tmp_path / "edited"), name, "link out of the folder")
        assert not (tmp_path / "edited").exists()

    def test_a_card_that_is_a_pickle(self, base, spec, tmp_path):
        (base / "README.md").write_bytes(pickle.dumps({"card": TOKEN}))
        done = save_edited(base, spec, tmp_path / "edited")
        assert "pickle" in done.reasons["README.md"]
        assert not (tmp_path / "edited" / "sith" / "base").exists()

    def test_a_card_out_of_the_folder(self, base, save, secret):
        (base / "README.md").unlink()
        (base / "README.md").symlink_to(secret)
        assert "link out" in contents(Checkpoint.read(base)).left_out["README.md"]


class TestInclude:
    @pytest.mark.parametrize(
        "pattern", ["../*", "/etc/passwd", "~/x", "", "nothing", "img/../LICENSE", "a\\b", ".git/*", 7]
    )
    def test_patterns_that_are_refused(self, base, spec, tmp_path, pattern):
        refused(lambda: save_edited(base, spec, tmp_path / "edited", include=[pattern]), "--include")

    @pytest.mark.parametrize(
        ("name", "write", "word"),
        [
            *((f"p{n}.txt", lambda p, n=n: p.write_bytes(pickle.dumps({"a": [1]}, n)), "pickle") for n in range(6)),
            ("evil.txt", lambda p: p.write_bytes(pickle.dumps(Evil(), 0)), "pickle"),
            ("long.txt", lambda p: p.write_bytes(pickle.dumps(list(range(10**5)), 0)), "pickle"),
            ("any.bin", lambda p: p.write_bytes(b"x"), "pickle"),
            ("new.txt", lambda p: torch.save({}, p), "archive"),
            ("old.txt", lambda p: torch.save({}, p, _use_new_zipfile_serialization=False), "pickle"),
            ("objects.npy", lambda p: np.save(p, np.array([{}], dtype=object)), "pickle"),
            ("packed.txt", lambda p: p.write_bytes(gzip.compress(pickle.dumps({}))), "archive"),
            ("weights.dat", lambda p: shutil.copyfile(p.parent / "model.safetensors", p), OTHER_WEIGHTS),
            ("model.onnx", lambda p: p.write_bytes(b"x"), OTHER_WEIGHTS),
            ("token.txt", lambda p: p.write_text(TOKEN), "token"),
            ("wide.txt", lambda p: p.write_text(TOKEN, encoding="utf-16"), "token"),
            (".env", lambda p: p.write_text(TOKEN), "token"),
            ("line\nbreak.txt", lambda p: p.write_text("x"), "control"),
            ("license", lambda p: p.write_text("x"), "case"),
            ("readme.md", lambda p: p.write_text("x"), "case"),
            ("pipe", os.mkfifo, "regular"),
        ],
    )
    def test_files_that_are_refused(self, base, spec, tmp_path, name, write, word):
        write(base / name)
        refused(lambda: save_edited(base, spec, tmp_path / "edited", include=[name]), word)
        if not name.startswith("."):
            refused(lambda: save_edited(base, spec, tmp_path / "edited", include="*"), word)
        assert not (tmp_path / "edited").exists()
        save_edited(base, spec, tmp_path / "edited")  # the control: without the pattern it is left out
        assert name not in tree(tmp_path / "edited")

    def test_files_that_are_added(self, base, save):
        texts = {"notes.txt": "...\n", "num.txt": "0.5 0.6\n" * 9000, "words.txt": "I am.\n" * 20000, "a/b.csv": "1"}
        for name, text in texts.items():
            (base / name).parent.mkdir(exist_ok=True)
            (base / name).write_text(text)
        np.save(base / "array.npy", np.zeros(3))
        assert {*texts, "array.npy"} <= copied(save("*"))

    def test_a_revert_includes_them_too(self, base, spec, tmp_path):
        (base / "notes.txt").write_text("notes")
        save_edited(base, spec, tmp_path / "edited", include=["notes.txt"])
        assert revert(tmp_path / "edited", tmp_path / "back").left_out == ("notes.txt",)
        revert(tmp_path / "edited", tmp_path / "whole", include="notes.txt")
        assert tree(tmp_path / "whole", without=["model"]) == tree(base, without=["model"])


class TestSpecialFiles:
    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
    @pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
    def test_in_place_of_a_file_that_the_model_needs(self, base, spec, tmp_path, name, make):
        (base / name).unlink(missing_ok=True)
        make(base / name)
        refused(lambda: save_edited(base, spec, tmp_path / "edited"), name)

    def test_elsewhere(self, base, save, monkeypatch):
        for name in ("pipe", "COPYING"):
            os.mkfifo(base / name)
        monkeypatch.chdir(base)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("NOTICE.sock")
        (base / "NOTICE").symlink_to("/dev/zero")
        for name in (b"LICENSE\xff", b"LICENSE\nevil", b"LICENSE\x1b[31m"):
            Path(os.fsdecode(os.fsencode(base) + b"/" + name)).write_text("x")
        done = save()
        assert len(done.left_out) == 7
        json.dumps(done.reasons)

    def test_in_the_record_of_an_edit(self, base, spec, secret, tmp_path):
        save_edited(base, spec, tmp_path / "edited")
        record = tmp_path / "edited" / "sith"
        for name in ("recipe.yaml", "base/README.md"):
            (record / name).unlink(missing_ok=True)
            (record / name).symlink_to(secret)
        found = contents(Checkpoint.read(tmp_path / "edited"))
        assert {"sith/recipe.yaml", "sith/base/README.md"} <= set(found.left_out)
        assert "my secret" not in folder_card(tmp_path / "edited")
        shutil.move(record / "edit_spec.safetensors", tmp_path / "spec")
        (record / "edit_spec.safetensors").symlink_to(tmp_path / "spec")
        refused(lambda: contents(Checkpoint.read(tmp_path / "edited")), "edit_spec.safetensors", "link out")

    def test_no_configuration(self, base, spec, tmp_path):
        (base / "config.json").unlink()
        refused(lambda: save_edited(base, spec, tmp_path / "edited"), str(base / "config.json"))
        assert [path.name for path in tmp_path.iterdir()] == ["base"]
