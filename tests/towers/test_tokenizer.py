"""Tokenizers: every class gives what transformers gives, and those that do not fit the text tower are refused."""

import json
import os
import sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerFast

from sith_hf.concepts import ConceptDictionary
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from sith_hf.towers import encode_texts, load_model
from sith_hf.towers import text_encoder as encoding
from sith_hf.towers.tokenizer import _stderr_without_panics, load_tokenizer
from tests.support.tiny import byte_tokenizer, save_clip
from tests.support.tokenizers import BOS, EOS, PAD, TOKENIZERS, UNK, WORDS, by_transformers, checkpoint_with, trained

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"


def refused(call):
    """The message of the one error that ``call`` ends with."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


def ours(folder, texts):
    loaded = load_model(str(folder))
    return encode_texts(loaded.model, loaded.tokenizer, texts)


# --- the same as transformers


@pytest.mark.parametrize("legacy", [False, True], ids=["end token", "legacy"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_class_gives_the_embeddings_of_transformers(kind, legacy, tmp_path):
    folder = checkpoint_with(TOKENIZERS[kind](tmp_path / "t"), tmp_path / "clip", legacy=legacy)
    expected = by_transformers(folder, WORDS)
    torch.testing.assert_close(ours(folder, WORDS), expected, atol=2e-6, rtol=0)
    # The control: the texts differ, in whichever order.
    assert not torch.allclose(ours(folder, WORDS[::-1]), expected, atol=1e-2)


def test_a_clip_tokenizer_in_their_place_is_wrong(tmp_path):
    """The control of the test above: the class that this package once assumed gives other embeddings."""
    folder = checkpoint_with(TOKENIZERS["WordPiece"](tmp_path), tmp_path / "clip")
    loaded = load_model(str(folder))
    wrong = encode_texts(loaded.model, CLIPTokenizer.from_pretrained(folder), ["Dog", "ocean"])
    assert (wrong - by_transformers(folder, ["Dog", "ocean"])).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["CLIP", "cased bytes", "Unigram", "BertTokenizer", "slow, bytes"])
def test_through_an_editor(kind, tmp_path):
    folder = checkpoint_with(TOKENIZERS[kind](tmp_path / "t"), tmp_path / "clip")
    made = SithEditor.from_pretrained(folder).encode(ConceptDictionary.from_texts(["boat", "Dog", "ocean"]))
    torch.testing.assert_close(made.embeddings, by_transformers(folder, made.texts), atol=2e-6, rtol=0)


@pytest.mark.parametrize("legacy", [False, True], ids=["end token", "legacy"])
def test_an_embedding_does_not_depend_on_its_neighbours(legacy, tmp_path, monkeypatch):
    # A padding token above the end token: the legacy tower would read at the padding.
    tokenizer = byte_tokenizer(tmp_path / "t")
    tokenizer.add_special_tokens({"pad_token": PAD})
    assert tokenizer.pad_token_id > tokenizer.eos_token_id
    folder = checkpoint_with(tokenizer, tmp_path / "clip", legacy=legacy)
    loaded = load_model(str(folder))
    monkeypatch.setattr(encoding, "_batches", lambda order, tokens, mixed: [order])  # one batch of all lengths
    together = encode_texts(loaded.model, loaded.tokenizer, WORDS)
    alone = torch.cat([encode_texts(loaded.model, loaded.tokenizer, [word]) for word in WORDS])
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)
    # The control: transformers' own padding moves the embeddings of the legacy tower, and only those.
    inputs = loaded.tokenizer(list(WORDS), padding=True, return_tensors="pt")
    with torch.no_grad():
        padded = torch.nn.functional.normalize(loaded.model.get_text_features(**inputs).pooler_output, dim=-1)
    assert torch.allclose(padded, alone, atol=1e-5) != legacy


def test_settings_of_the_tokenizer_hold_as_for_the_processor(tmp_path):
    """``truncation`` and ``max_length`` of tokenizer_config.json count, ``model_max_length`` alone does not."""
    long = ["a small green car on the road and a dog", "a small green car on the sea"]
    for kind, cut in (("saved truncation", True), ("short model_max_length", False)):
        folder = checkpoint_with(TOKENIZERS[kind](tmp_path), tmp_path / kind)
        embeddings = ours(folder, long)
        torch.testing.assert_close(embeddings, by_transformers(folder, long), atol=2e-6, rtol=0)
        assert torch.allclose(*embeddings, atol=1e-4) == cut  # they differ after the sixth token only


def test_code_beside_a_tokenizer_never_runs(tmp_path, monkeypatch, capsys):
    folder = save_clip(tmp_path / "clip")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for name in ("config.json", "tokenizer_config.json"):
        data = json.loads((folder / name).read_text())
        auto = {"AutoTokenizer": ["evil.T", "evil.T"], "AutoConfig": "evil.C", "AutoModel": "evil.M"}
        (folder / name).write_text(json.dumps({**data, "auto_map": auto}))
    monkeypatch.setattr(sys, "stdin", None)  # a question would fail
    assert load_model(str(folder)).tokenizer("dog")["input_ids"][-1] == 513
    assert not (tmp_path / "ran").exists()
    assert capsys.readouterr().out == ""


# --- tokenizers that do not fit


def test_an_end_token_that_is_never_written(tmp_path):
    folder = checkpoint_with(trained("bpe", template=f"{BOS} $A"), tmp_path / "clip", eos_token_id=2)
    checkpoint_with(trained("bpe", template=f"{BOS} $A"), tmp_path / "other", eos_token_id=399)
    ours(folder, WORDS)  # the control: 2 means the largest token
    # What transformers returns without a word: one embedding for all.
    same = by_transformers(tmp_path / "other", WORDS)
    torch.testing.assert_close(same, same[:1].expand_as(same))
    message = refused(lambda: ours(tmp_path / "other", WORDS))
    assert "end token, 399, which the tokenizer does not write" in message
    assert "'red boat' becomes [1, " in message
    assert f"{len(WORDS)} of {len(WORDS)} texts lack it" in message
    assert "its own eos_token is 3" in message


def end_first():
    """A tokenizer that writes one token at both ends, as GPT-2's does."""
    return trained("bpe", template=f"{EOS} $A {EOS}", bos_token=EOS)


def first_is_largest():
    """A tokenizer that begins every text with its largest token."""
    words = [UNK, "<s>", "dog", "red", "boat", "ocean", BOS]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNK))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 6)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token=UNK, bos_token=BOS, pad_token=UNK)


@pytest.mark.parametrize(("make", "legacy"), [(end_first, False), (first_is_largest, True)])
def test_an_end_token_before_the_text(make, legacy, tmp_path):
    folder = checkpoint_with(make(), tmp_path / "clip", legacy=legacy)
    same = by_transformers(folder, WORDS)
    torch.testing.assert_close(same, same[:1].expand_as(same))
    assert "every text would get the same embedding" in refused(lambda: ours(folder, WORDS))


@pytest.mark.parametrize("end", [None, [513], [513, 2]], ids=str)
def test_an_end_token_that_is_no_number(end, tmp_path):
    folder = checkpoint_with(byte_tokenizer(tmp_path / "t"), tmp_path / "clip", eos_token_id=end)
    assert "eos_token_id in config.json is" in refused(lambda: ours(folder, WORDS))


def test_tokens_beyond_the_text_tower(tmp_path):
    tokenizer = byte_tokenizer(tmp_path / "t")
    tokenizer.add_tokens(["zebra"])
    folder = checkpoint_with(tokenizer, tmp_path / "clip", vocab_size=514)
    ours(folder, ["dog"])  # the control: such a token is no fault until a text has it
    message = refused(lambda: ours(folder, ["dog", "zebra"]))
    assert "token 514 for 'zebra'" in message
    assert "tokens 0 to 513" in message


def test_a_vocabulary_of_another_language(tmp_path):
    folder = checkpoint_with(TOKENIZERS["BertTokenizer"](tmp_path), tmp_path / "clip")
    ours(folder, ["dog", "運動"])  # the control: some texts may be unknown
    assert "knows no part of any text: '運動' becomes [2, 1, 1, 3]" in refused(lambda: ours(folder, ["運動", "狗"]))


def test_a_text_without_any_token(tmp_path):
    folder = checkpoint_with(trained("bpe", template="$A"), tmp_path / "clip", eos_token_id=2)
    assert "no token for ''" in refused(lambda: ours(folder, ["dog", ""]))


# --- damaged files


def damaged(folder, name, content):
    path = folder / name
    if callable(content):
        data = json.loads(path.read_text())
        content(data)
        content = json.dumps(data)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        "[" * 100_000,
        b"\xff\xfe{}",
        LFS,
        lambda d: d.update(model=None),
        lambda d: d["model"].update(type="None"),
        lambda d: d["model"].update(vocab=[1]),
        lambda d: d["model"].update(merges=[["no", "such"]]),
        lambda d: d.update(normalizer={"type": "None"}),
        lambda d: d.update(post_processor={"type": "TemplateProcessing"}),
        lambda d: d.update(added_tokens=[1]),
        lambda d: d.update(version="9"),
        lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),  # Rust panics
    ],
    ids=range(18),
)
def test_a_damaged_tokenizer_json(content, tmp_path, capfd):
    folder = save_clip(tmp_path / "clip")
    assert load_tokenizer(folder)("dog")["input_ids"][-1] == 513  # the control
    damaged(folder, "tokenizer.json", content)
    with pytest.raises(BaseException):  # noqa: B017, PT011  - the library in Rust raises nothing narrower
        AutoTokenizer.from_pretrained(folder)
    capfd.readouterr()
    assert str(folder) in refused(lambda: load_tokenizer(folder))
    assert capfd.readouterr().err == ""


def test_texts_at_which_the_tokenizer_panics(tmp_path, capfd):
    folder = checkpoint_with(trained("bpe"), tmp_path / "clip")
    ours(folder, WORDS)  # the control
    damaged(folder, "tokenizer.json", lambda data: data["post_processor"].update(special_tokens={}))
    loaded = load_model(str(folder))
    capfd.readouterr()
    message = refused(lambda: encode_texts(loaded.model, loaded.tokenizer, WORDS))
    assert "the tokenizer cannot read the texts (" in message
    assert capfd.readouterr().err == ""


def writes_and_fails():
    with _stderr_without_panics():
        os.write(2, b"another")
        raise KeyError


def test_other_lines_on_stderr_are_kept(capfd):
    with _stderr_without_panics():
        print("a note", file=sys.stderr)
    with pytest.raises(KeyError):
        writes_and_fails()
    assert capfd.readouterr().err == "a note\nanother"


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_class": 5},
        {"tokenizer_class": "MistralCommonBackend"},  # its library is not installed
        {"tokenizer_class": "T5Tokenizer"},
        {"auto_map": ["a"]},
        {"bos_token": 5},
        {"added_tokens_decoder": [1]},
        {"padding_side": "up"},
    ],
    ids=str,
)
def test_a_damaged_tokenizer_config(change, tmp_path):
    folder = save_clip(tmp_path / "clip")
    damaged(folder, "tokenizer_config.json", lambda data: data.update(change))
    assert "its tokenizer cannot be loaded (" in refused(lambda: load_model(str(folder)))


@pytest.mark.parametrize("change", [{"max_length": "x"}, {"max_length": -5}, {"model_max_length": "x"}], ids=str)
def test_a_saved_truncation_of_a_wrong_type(change, tmp_path):
    folder = checkpoint_with(trained("bpe"), tmp_path / "clip")
    damaged(folder, "tokenizer_config.json", lambda data: data.update({"truncation": True, **change}))
    assert "the tokenizer cannot" in refused(lambda: ours(folder, WORDS))


def test_git_lfs_pointers_are_named(tmp_path):
    folder = save_clip(tmp_path / "clip")
    damaged(folder, "tokenizer_config.json", LFS)
    assert "git lfs pull" in refused(lambda: load_model(str(folder)))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text(LFS)
    # Without our check, transformers makes three words of it.
    assert "size 3" in AutoTokenizer.from_pretrained(folder).get_vocab()
    assert "vocab.txt: it is a git-lfs pointer" in refused(lambda: load_model(str(folder)))
