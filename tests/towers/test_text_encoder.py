"""Encoding a text at its own length equals encoding it padded to the tower's full length."""

import copy

import pytest
import torch
from torch.nn.functional import normalize
from transformers import CLIPModel

from sith_hf.errors import InputError
from sith_hf.files import EmbeddingCache
from sith_hf.towers import text_encoder as encoding
from sith_hf.towers.text_encoder import encode_texts, fill_template
from tests.support.made import WORDS
from tests.support.tiny import byte_tokenizer, clip_model, randomise

TEXTS = [*WORDS, "a", "", "a very much longer description of a scene " * 5, "x" * 300, "!!!", "naïve 🙂"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model():
    return clip_model()


def legacy_model():
    """The convention of the checkpoints of 2021: end token 2 means that the largest token is the end."""
    config = copy.deepcopy(clip_model().config)
    config.text_config.eos_token_id = 2
    return randomise(CLIPModel(config), 0)


def padded_to_the_full_length(model, tokenizer, texts):
    """The reference: CLIPProcessor and CLIPModel, one text at a time."""
    rows = []
    for text in texts:
        batch = tokenizer([text], padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        assert batch["input_ids"].shape == (1, 77)
        with torch.no_grad():
            rows.append(model.get_text_features(**batch).pooler_output[0])
    return normalize(torch.stack(rows), dim=-1)


@pytest.mark.parametrize("make", [clip_model, legacy_model], ids=["eos 513", "legacy eos 2"])
@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"], ids=["pad = eos", "pad != eos"])
@pytest.mark.parametrize("batch_tokens", [60, 8192])
def test_equals_padding_to_the_full_length(make, pad, batch_tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "BATCH_TOKENS", batch_tokens)
    model, tokenizer = make(), byte_tokenizer(tmp_path)
    tokenizer.pad_token = pad
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) == (pad == "<|endoftext|>")
    ours = encode_texts(model, tokenizer, TEXTS)
    assert ours.dtype == torch.float32
    assert not ours.requires_grad
    torch.testing.assert_close(ours, padded_to_the_full_length(model, tokenizer, TEXTS), atol=1e-5, rtol=0)


def test_a_tokenizer_without_padding_will_do(model, tokenizer, tmp_path):
    bare = byte_tokenizer(tmp_path)
    bare.pad_token = None
    assert bare.pad_token_id is None
    torch.testing.assert_close(encode_texts(model, bare, TEXTS), encode_texts(model, tokenizer, TEXTS))


def test_padding_is_not_a_matter_of_taste(model, tokenizer):
    """The control: padding on the left moves every embedding, so that the tolerance above means something."""
    width = 77
    rows = []
    for text in TEXTS[:5]:
        ids = tokenizer(text)["input_ids"]
        ids = [0] * (width - len(ids)) + ids
        with torch.no_grad():
            rows.append(model.get_text_features(input_ids=torch.tensor([ids])).pooler_output[0])
    left = normalize(torch.stack(rows), dim=-1)
    assert (left - encode_texts(model, tokenizer, TEXTS[:5])).abs().max() > 1e-2


def test_rows_are_unit_and_follow_the_order_of_the_texts(model, tokenizer, monkeypatch):
    embeddings = encode_texts(model, tokenizer, TEXTS)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(len(TEXTS)))
    monkeypatch.setattr(encoding, "BATCH_TOKENS", 100)
    order = torch.randperm(len(TEXTS), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = encode_texts(model, tokenizer, [TEXTS[i] for i in order])
    torch.testing.assert_close(shuffled, embeddings[order], atol=1e-5, rtol=0)
    assert not torch.allclose(shuffled, embeddings, atol=1e-2)  # the control
    alone = torch.cat([encode_texts(model, tokenizer, [text]) for text in TEXTS])
    torch.testing.assert_close(alone, embeddings, atol=1e-5, rtol=0)


def test_long_texts_are_cut_at_the_end(model, tokenizer):
    # A start and an end token are among the 77, so 75 words of one letter fit.
    letters = list("abcdefghij" * 20)
    long, cut, shorter = encode_texts(model, tokenizer, [" ".join(letters[:n]) for n in (200, 75, 74)])
    torch.testing.assert_close(long, cut, atol=1e-6, rtol=0)
    assert not torch.allclose(long, shorter, atol=1e-3)


def test_case_does_not_matter(model, tokenizer):
    upper, lower, other = encode_texts(model, tokenizer, ["BEACH", "beach", "beech"])
    assert torch.equal(upper, lower)
    assert not torch.allclose(lower, other, atol=1e-3)


def test_template(model, tokenizer):
    filled = encode_texts(model, tokenizer, ["a photo of a bird", "a photo of a car"])
    ours = encode_texts(model, tokenizer, ["bird", "car"], "a photo of a {}")
    torch.testing.assert_close(ours, filled)
    assert not torch.allclose(encode_texts(model, tokenizer, ["bird", "car"]), filled, atol=1e-3)


def test_template_takes_texts_literally():
    assert fill_template(["{}", "a{b}", "%s", "\\1"], "x {} y") == ["x {} y", "x a{b} y", "x %s y", "x \\1 y"]
    assert fill_template(["a"], None) == ["a"]
    assert fill_template(["a"], "{0} {x} {}") == ["{0} {x} a"]


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}"])
def test_a_template_without_its_one_place_is_refused(template, model, tokenizer):
    with pytest.raises(InputError, match="exactly one"):
        fill_template(["a"], template)
    with pytest.raises(InputError, match="exactly one"):
        encode_texts(model, tokenizer, ["a"], template)


def test_no_text_and_no_tokenizer_are_refused(model, tokenizer):
    with pytest.raises(InputError, match="no text"):
        encode_texts(model, tokenizer, [])
    with pytest.raises(InputError, match="has no tokenizer"):
        encode_texts(model, None, ["a"])


def test_a_damaged_text_tower_is_refused(tokenizer):
    model = clip_model()
    encode_texts(model, tokenizer, ["a", "b"])  # the control
    with torch.no_grad():
        model.text_projection.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        encode_texts(model, tokenizer, ["a", "b"])


def test_half_precision_gives_float32_rows(tokenizer):
    ours = encode_texts(clip_model().bfloat16(), tokenizer, TEXTS)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(len(TEXTS)))
    exact = encode_texts(clip_model(), tokenizer, TEXTS)
    assert (ours * exact).sum(dim=-1).min() > 0.99


def test_progress_goes_to_stderr_and_only_when_asked(model, tokenizer, capsys):
    encode_texts(model, tokenizer, ["a", "b"])
    assert capsys.readouterr() == ("", "")
    encode_texts(model, tokenizer, ["a", "b"], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err


class TestCache:
    """Embeddings of an earlier run are those that would be computed, or are not used."""

    def encoded(self, model, tokenizer, folder, texts=TEXTS, template=None):
        return encode_texts(model, tokenizer, texts, template, cache=EmbeddingCache(folder))

    def test_the_second_run_computes_nothing_and_has_the_same_bits(self, tokenizer, tmp_path, monkeypatch):
        first = self.encoded(clip_model(), tokenizer, tmp_path)
        assert torch.equal(first, encode_texts(clip_model(), tokenizer, TEXTS))
        monkeypatch.setattr(encoding.CausalText, "embed", None)
        assert torch.equal(self.encoded(clip_model(), tokenizer, tmp_path), first)
        with pytest.raises(TypeError):  # the control
            self.encoded(clip_model(), tokenizer, tmp_path, TEXTS[1:])

    def test_everything_that_changes_an_embedding_makes_another_list(self, model, tokenizer, tmp_path):
        shorter = copy.deepcopy(tokenizer)
        shorter.init_kwargs |= {"truncation": True, "max_length": 9}
        gelu = clip_model()
        gelu.config.text_config.hidden_act = "gelu"
        changes = [
            (model, tokenizer, TEXTS, None),
            (model, tokenizer, TEXTS, "a {}"),
            (model, tokenizer, TEXTS[::-1], None),
            (clip_model(1), tokenizer, TEXTS, None),
            (model, shorter, TEXTS, None),
            (legacy_model(), tokenizer, TEXTS, None),
            (gelu, tokenizer, TEXTS, None),
            (clip_model().bfloat16(), tokenizer, TEXTS, None),
        ]
        for number, (asked, words, texts, template) in enumerate(changes):
            self.encoded(asked, words, tmp_path, texts, template)
            assert len(list(tmp_path.iterdir())) == number + 1
        self.encoded(clip_model(), tokenizer, tmp_path, tuple(TEXTS))
        assert len(list(tmp_path.iterdir())) == len(changes)  # the control

    def test_a_tower_that_computes_something_else_is_not_cached(self, tokenizer, tmp_path):
        plain = self.encoded(clip_model(), tokenizer, tmp_path)
        model = clip_model()
        model.text_model.final_layer_norm.register_forward_hook(lambda module, inputs, output: output.flip(-1))
        found = self.encoded(model, tokenizer, tmp_path)
        assert not torch.allclose(found, plain, atol=1e-3)
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_damaged_tower_is_refused_and_not_cached(self, tokenizer, tmp_path):
        model = clip_model()
        with torch.no_grad():
            model.text_projection.weight[0, 0] = torch.nan
        with pytest.raises(InputError, match="not finite"):
            self.encoded(model, tokenizer, tmp_path / "c")
        assert not (tmp_path / "c").exists()
