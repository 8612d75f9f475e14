"""The fast form of a causal text tower gives what the tower's own forward gives, or stands aside."""

import copy

import pytest
import torch
from torch import nn
from transformers import CLIPSegConfig, CLIPSegModel, MetaClip2Config, MetaClip2Model
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sith_hf.towers import causal_text, encode_texts
from sith_hf.towers.causal_text import CausalText, read_position
from tests.support.tiny import byte_tokenizer, clip_model, randomise

END = 513
# Repeated, one the beginning of another, one token, no end token, tokens after the end, the whole length.
TEXTS = [
    [512, 7, END],
    [512, 7, 8, END],
    [512, 7, 8, 9, END],
    [512, 7, 8, END],
    [512, END],
    [END],
    [3],
    [512, 7, 8],
    [512, 8, END, 4, 4],
    [512, END, 9, END],
    [512, *[5] * 75, END],
    [512, *[5] * 74, 6, END],
    [2, 2, 1],
    [1, 2, 300, 2],
]


def tower_of(family, end=END, **text):
    """A random model of a family with the text tower of ``clip_model``."""
    settings = {**clip_model().config.text_config.to_dict(), "eos_token_id": end, **text}
    settings.pop("model_type")
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 1}
    vision |= {"image_size": 16, "patch_size": 8}
    kinds = {"clipseg": (CLIPSegConfig, CLIPSegModel), "metaclip_2": (MetaClip2Config, MetaClip2Model)}
    if family == "clip":
        config = copy.deepcopy(clip_model().config)
        for name, value in settings.items():
            setattr(config.text_config, name, value)
        return randomise(type(clip_model())(config), 0)
    config, kind = kinds[family]
    return randomise(kind(config(text_config=settings, vision_config=vision, projection_dim=24)), 0)


def one_by_one(model, texts):
    """The reference: the model's own forward, one text at a time."""
    with torch.no_grad():
        return torch.cat([model.get_text_features(input_ids=torch.tensor([ids])).pooler_output for ids in texts])


def in_batches(model, texts, limit=8192):
    """The fast form, in its batches."""
    text = CausalText.of(model.text_model, model.text_projection)
    found = torch.full((len(texts), model.text_projection.weight.shape[0]), torch.nan)
    for batch in text.batches(texts, limit):
        with torch.no_grad():
            found[batch] = text.embed([texts[number] for number in batch])
    return found


@pytest.mark.parametrize("family", ["clip", "clipseg", "metaclip_2"])
@pytest.mark.parametrize("end", [END, 2])
@pytest.mark.parametrize(("states", "limit"), [(1024, 8192), (9, 8192), (1024, 12), (1, 1)])
def test_equals_the_towers_own_forward(family, end, states, limit, monkeypatch):
    monkeypatch.setattr(causal_text, "BATCH_STATES", states)
    model = tower_of(family, end)
    torch.testing.assert_close(in_batches(model, TEXTS, limit), one_by_one(model, TEXTS), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("text", [{"num_hidden_layers": 1}, {"num_attention_heads": 1}, {"hidden_act": "gelu"}])
def test_other_settings(attention, text):
    model = tower_of("clip", **text)
    model.set_attn_implementation(attention)
    torch.testing.assert_close(in_batches(model, TEXTS), one_by_one(model, TEXTS), atol=2e-6, rtol=1e-5)


def test_attention_is_causal_and_the_end_is_read():
    """The control: other tokens before the end move an embedding, and so does another end."""
    model = tower_of("clip")
    one, other, longer = in_batches(model, [[512, 7, 8, END], [512, 9, 8, END], [512, 7, 8, 8, END]])
    assert (one - other).abs().max() > 1e-2
    assert (one - longer).abs().max() > 1e-2
    legacy, plain = in_batches(tower_of("clip", 2), [[1, 300, 2, 5]]), in_batches(model, [[1, 300, 2, 5]])
    assert (legacy - plain).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("family", "end", "position"), [("clip", END, 3), ("clip", 2, 2), ("clipseg", 2, 2), ("metaclip_2", 2, 1)]
)
def test_where_the_embedding_is_read(family, end, position):
    tower = tower_of(family, end).text_model
    assert read_position(tower, [1, 2, 600, END, END, 2]) == position
    assert read_position(tower, [1]) == 0


def test_what_texts_share_is_computed_once():
    model = tower_of("clip")
    counts = []
    first, last = model.text_model.encoder.layers
    first.mlp.fc1.register_forward_hook(lambda module, inputs, output: counts.append(len(output)))
    last.mlp.fc1.register_forward_hook(lambda module, inputs, output: counts.append(len(output)))
    text = CausalText(model.text_model, model.text_projection)
    with torch.no_grad():
        text.embed([[512, 5, 6, n, END] for n in range(20)])
        text.embed([[512, 5, 6, n, END, 9, 9] for n in (1, 1, 1)])
    # The template once, then a word and an end of each text; in the last layer the ends.
    assert counts == [3 + 2 * 20, 20, 5, 3]


def test_batches_are_bounded_and_hold_every_text_once(monkeypatch):
    monkeypatch.setattr(causal_text, "BATCH_STATES", 10)
    model = tower_of("clip")
    text = CausalText.of(model.text_model, model.text_projection)
    texts = [[512, 5, n % 7, n, END] for n in range(50)]
    batches = text.batches(texts, 20)
    assert sorted(number for batch in batches for number in batch) == list(range(50))
    for batch in batches:
        states = {tuple(texts[number][:end]) for number in batch for end in range(1, 6)}
        assert len(states) <= 10
        assert len(batch) * 5 <= 20
    assert text.batches(texts, 20) == batches


class Scaled(nn.Linear):
    """A layer of another library."""

    def forward(self, states):
        return 2 * super().forward(states)


def hooked(model):
    model.text_model.final_layer_norm.register_forward_hook(lambda module, inputs, output: output.flip(-1))


def hooked_before(model):
    model.text_model.encoder.layers[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2, *inputs[1:]))


def replaced_layer(model):
    old = model.text_model.encoder.layers[0].mlp.fc1
    model.text_model.encoder.layers[0].mlp.fc1 = Scaled(old.in_features, old.out_features)


def replaced_forward(model):
    layer = model.text_model.encoder.layers[1].mlp
    own = layer.forward
    layer.forward = lambda states: 2 * own(states)


def own_attention(model):
    def halved(module, query, key, value, mask, **options):
        found, weights = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **options)
        return found / 2, weights

    ALL_ATTENTION_FUNCTIONS["halved"] = halved
    model.text_model.config._attn_implementation = "halved"


def hooked_projection(model):
    model.text_projection.register_forward_hook(lambda module, inputs, output: output + 1)


@pytest.mark.parametrize(
    "change",
    [hooked, hooked_before, replaced_layer, replaced_forward, own_attention, hooked_projection],
    ids=lambda change: change.__name__,
)
def test_a_tower_that_computes_something_else_runs_its_own_forward(change, tmp_path):
    model, tokenizer = tower_of("clip"), byte_tokenizer(tmp_path)
    words = ["sea", "seal", "a boat", ""]
    plain = encode_texts(model, tokenizer, words)
    assert CausalText.of(model.text_model, model.text_projection) is not None
    change(model)
    assert CausalText.of(model.text_model, model.text_projection) is None
    found = encode_texts(model, tokenizer, words)
    wanted = torch.nn.functional.normalize(one_by_one(model, [tokenizer(word)["input_ids"] for word in words]), dim=-1)
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_a_compiled_tower_runs_its_own_forward():
    model = tower_of("clip")
    model.text_model.encoder._compiled_call_impl = model.text_model.encoder.forward  # as Module.compile() sets it
    assert CausalText.of(model.text_model, model.text_projection) is None


def test_a_tower_on_two_devices_runs_its_own_forward():
    model = tower_of("clip")
    model.text_model.encoder.layers[0].to("meta")
    assert CausalText.of(model.text_model, model.text_projection) is None


def test_a_tower_that_recorded_its_states_stays_fast():
    """transformers leaves hooks that only watch."""
    model = tower_of("clip")
    model.text_model(input_ids=torch.tensor([[512, END]]), output_hidden_states=True)
    assert model.text_model.encoder.layers[0]._forward_hooks
    assert CausalText.of(model.text_model, model.text_projection) is not None
