"""Fingerprints: settings that differ are named, tokenizers that encode alike are equal."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from sith_hf.core.fingerprint import BaseRef, changed_setting, tokenizer_sha256
from sith_hf.errors import ArtifactError, BaseMismatch
from tests.support.tiny import byte_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    return byte_tokenizer(tmp_path)


def changed(tokenizer, change):
    """A tokenizer with another ``tokenizer.json``."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    change(content)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)))


ENCODING = {
    "case": lambda c: c.update(normalizer={"type": "NFC"}),
    "no normalizer": lambda c: c.update(normalizer=None),
    "words": lambda c: c.update(pre_tokenizer={"type": "Whitespace"}),
    "start and end": lambda c: c.update(post_processor=None),
    "merge": lambda c: c["model"]["vocab"].update({"ab": 514}) or c["model"]["merges"].append(["a", "b"]),
    "ending": lambda c: c["model"].update(end_of_word_suffix=""),
    "added token": lambda c: c["added_tokens"].append({**c["added_tokens"][0], "id": 514, "content": "<new>"}),
}
NOT_ENCODING = {
    "nothing": lambda c: None,
    "decoder": lambda c: c.update(decoder={"type": "Fuse"}),
    "padding": lambda c: c.update(
        padding={"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 513}
        | {"pad_type_id": 0, "pad_token": "<|endoftext|>"}
    ),
    "truncation": lambda c: c.update(
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    ),
}


@pytest.mark.parametrize("kind", [*ENCODING, *NOT_ENCODING])
def test_what_decides_the_encoding_counts(tokenizer, kind):
    other = changed(tokenizer, {**ENCODING, **NOT_ENCODING}[kind])
    assert (tokenizer_sha256(other) == tokenizer_sha256(tokenizer)) == (kind in NOT_ENCODING)


def test_fields_that_another_release_adds_without_a_value_do_not_count(tokenizer):
    class Backend:
        def __init__(self, **fields):
            self.fields = fields

        def to_str(self):
            return json.dumps({**json.loads(tokenizer.backend_tokenizer.to_str()), **self.fields})

    class Newer:
        def __init__(self, **fields):
            self.backend_tokenizer = Backend(**fields)

    assert tokenizer_sha256(Newer(version="2.0", novelty=None, another=False)) == tokenizer_sha256(tokenizer)
    assert tokenizer_sha256(Newer(novelty=0)) != tokenizer_sha256(tokenizer)


def test_a_tokenizer_without_a_backend():
    assert tokenizer_sha256(ByT5Tokenizer()) == tokenizer_sha256(ByT5Tokenizer())
    assert tokenizer_sha256(ByT5Tokenizer()) != tokenizer_sha256(ByT5Tokenizer(extra_ids=3))


def test_a_setting_that_either_side_lacks_is_not_compared():
    assert changed_setting({"a": 1}, {"b": 2}) is None
    assert changed_setting({"a": 1, "b": 2}, {"b": 2}) is None
    assert changed_setting({"a": 1, "b": 2}, {"b": 3, "a": 1}) == ("b 2", "b 3")
    assert "\x1b" not in "".join(changed_setting({"\x1b[31m": "\x1b"}, {"\x1b[31m": 1}))


def test_a_base_keeps_its_settings():
    base = BaseRef("me", None, {"k": "1"}, {"heads": 4})
    assert BaseRef.from_json(json.loads(json.dumps(base.to_json()))) == base
    assert base.only(()).settings == base.settings
    base.check({"k": "1"}, "here", {"heads": 4, "more": 1})
    base.check({"k": "1"}, "here")
    with pytest.raises(BaseMismatch, match="made for me with heads 4, but here has heads 2: make it again"):
        base.check({"k": "1"}, "here", {"heads": 2})
    with pytest.raises(BaseMismatch, match="other values"):
        base.check({"k": "2"}, "here", {"heads": 4})
    old = {"name": "me", "revision": None, "sha256": {"k": "1"}}
    assert BaseRef.from_json(old).to_json() == old
    with pytest.raises(ArtifactError, match="settings of the base are damaged"):
        BaseRef.from_json({**old, "settings": [1]})
