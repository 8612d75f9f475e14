"""Read ``open_clip_config.json`` as a configuration with the names of transformers, or say why its model is refused."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import read_json_object
from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.files import TensorFile
from sith_hf.towers.folder_format import OPEN_CLIP
from sith_hf.towers.refusals import refusal_of_name

MODEL_TYPE, ARCHITECTURE = "open_clip", "OpenClipModel"

_ADVICE = "download the checkpoint again"
_VISION = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
_TEXT = {"layers": 12, "width": 512, "heads": 8, "mlp_ratio": 4.0, "context_length": 77, "vocab_size": 49408}
_CLEANING = ("lower", "whitespace", "canonicalize")

# Keys that say the same of the model as their absence, whatever their value: training, or output that is not read.
_NO_EFFECT = frozenset({
    "output_tokens", "patch_dropout", "pos_embed_type", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_drop",
    "timm_proj_bias", "timm_drop_path", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "attn_pooler_queries",
    "attn_pooler_heads", "hf_tokenizer_name",
})  # fmt: skip
_OWN_BLOCK = "its attention layers have other parts than a plain transformer's"
_REFUSED = {
    "attentional_pool": "a pool with queries of its own stands between the residual stream and the joint space",
    "scale_attn_inner": (
        "a layer norm stands between value and output projection, so no fixed matrix leads from what a head reads to "
        "what it writes"
    ),
    "scale_attn": "a layer norm follows the output projection, so what a head writes depends on all other heads",
    "scale_heads": "a scale of each head stands between value and output projection",
    "scale_fc": _OWN_BLOCK,
    "qk_norm": _OWN_BLOCK,
    "scaled_cosine_attn": _OWN_BLOCK,
    "hf_model_name": "its text tower is a model of transformers inside the open_clip file, with other tensors",
    "embed_cls": "the text is read at a token behind the padding (CoCa)",
    "tokenizer_mode": "its tokenizer adds tokens of its own",
}


def open_clip_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of an open_clip folder, as a ``config.json`` of transformers would hold it.

    Raises:
        UnsupportedModel: a model whose parts are others than CLIP's; the message names the key.
        InputError: the file is missing or damaged.
    """
    path = folder / OPEN_CLIP.config
    data = read_json_object(path, _ADVICE)
    try:
        found = converted(data)
        return {**found, "custom_text": found["custom_text"] and not _is_flat(OPEN_CLIP.single(folder))}
    except InputError as error:
        raise type(error)(f"{OPEN_CLIP.config}: {error}") from None


def converted(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``open_clip_config.json`` as that of a ``config.json``.

    Raises:
        UnsupportedModel, InputError: as for :func:`open_clip_config`.
    """
    model = _object(data, "model_cfg")
    vision, text = _object(model, "vision_cfg"), _object(model, "text_cfg")
    for key in ("multimodal_cfg", "audio_cfg"):
        if model.get(key) is not None:
            raise UnsupportedModel(f"model_cfg has {key}: a model that also writes text (CoCa) has other parts")
    size = _number(model, "model_cfg", "embed_dim", None)
    quick = bool(model.get("quick_gelu", False))
    return {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURE],
        "projection_dim": size,
        "custom_text": bool(model.get("custom_text", False)),
        "vision_config": {**_vision(vision, quick), "projection_dim": size},
        "text_config": {**_text(text, quick), "projection_dim": size},
        "preprocess": dict(_object(data, "preprocess_cfg") if data.get("preprocess_cfg") is not None else {}),
    }


def _vision(part: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    where = "vision_cfg"
    if (name := part.get("timm_model_name")) is not None:
        why = refusal_of_name(str(name)) or (
            "its vision tower is a model of timm, with other tensors than open_clip's own; timm's ViT as a model of "
            "transformers can be edited if there is a conversion"
        )
        raise UnsupportedModel(f"{where} has timm_model_name {sanitize(repr(name), 60)}: {why}")
    if isinstance(part.get("layers"), list):
        raise UnsupportedModel(f"{where} has layers {part['layers']}: a ResNet has no heads")
    _check_keys(part, where, {*_VISION, "ls_init_value", "no_ln_pre", "final_ln_after_pool", "pool_type"})
    shared = _shared(part, where, _VISION, quick)
    heads, rest = divmod(shared["hidden_size"], _number(part, where, "head_width", _VISION["head_width"]))
    if rest:
        raise InputError(f"{where} has width {shared['hidden_size']}, which head_width does not divide: {_ADVICE}")
    return {
        **shared,
        "num_attention_heads": heads,
        "image_size": _side(part, where, "image_size"),
        "patch_size": _side(part, where, "patch_size"),
        "num_channels": 3,
        "pre_norm": not part.get("no_ln_pre", False),
        "norm_after_pool": bool(part.get("final_ln_after_pool", False)),
        "pool": _choice(part, where, "pool_type", ("tok", "avg")),
    }


def _text(part: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    where = "text_cfg"
    known = {"ls_init_value", "pad_id", "eos_id", "no_causal_mask", "final_ln_after_pool", "pool_type", "proj_bias"}
    _check_keys(part, where, {*_TEXT, *known, "proj_type", "tokenizer_kwargs"})
    if part.get("proj_type", "linear") != "linear":
        raise UnsupportedModel(f"{where} has proj_type {_shown(part['proj_type'])}: expected 'linear'")
    options = part.get("tokenizer_kwargs") or {}
    if not isinstance(options, dict) or not options.keys() <= {"clean", "strip_sep_token"}:
        raise UnsupportedModel(f"{where} has tokenizer_kwargs {_shown(options)}: expected clean, strip_sep_token")
    of_library = bool(part.get("hf_tokenizer_name"))
    return {
        **_shared(part, where, _TEXT, quick),
        "num_attention_heads": _number(part, where, "heads", _TEXT["heads"]),
        "max_position_embeddings": _number(part, where, "context_length", _TEXT["context_length"]),
        "vocab_size": _number(part, where, "vocab_size", _TEXT["vocab_size"]),
        "causal": not part.get("no_causal_mask", False),
        "pool": _choice(part, where, "pool_type", ("argmax", "eos", "last", "first")),
        "projection_bias": bool(part.get("proj_bias", False)),
        # 2 in the manner of CLIP's checkpoints of 2021: the largest token.
        "eos_token_id": _number(part, where, "eos_id", 2) if part.get("pool_type") == "eos" else 2,
        "clean": _choice({"clean": "whitespace" if of_library else "lower", **options}, where, "clean", _CLEANING),
        "strip_sep_token": bool(options.get("strip_sep_token", False)),
        "own_padding": of_library,
    }


def _shared(part: Mapping[str, Any], where: str, defaults: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    width = _number(part, where, "width", defaults["width"])
    ratio = part.get("mlp_ratio", defaults["mlp_ratio"])
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 64:
        raise InputError(f"{where} has mlp_ratio {_shown(ratio)}, expected a number from 0 to 64: {_ADVICE}")
    return {
        "hidden_size": width,
        "intermediate_size": int(width * ratio),
        "num_hidden_layers": _number(part, where, "layers", defaults["layers"]),
        "hidden_act": _activation(part, where, quick),
        "layer_norm_eps": _epsilon(part, where),
        "layer_scale": part.get("ls_init_value") is not None,
    }


def _activation(part: Mapping[str, Any], where: str, quick: bool) -> str:
    options = part.get("act_kwargs") or {}
    if options == {"approximate": "tanh"} and not quick:
        return "gelu_pytorch_tanh"
    if options not in ({}, {"approximate": "none"}) or (options and quick):
        raise UnsupportedModel(f"{where} has act_kwargs {_shown(options)}: expected approximate 'tanh' or none")
    return "quick_gelu" if quick else "gelu"


def _epsilon(part: Mapping[str, Any], where: str) -> float:
    options = part.get("norm_kwargs") or {}
    eps = options.get("eps", 1e-5) if isinstance(options, dict) and options.keys() <= {"eps"} else None
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise UnsupportedModel(f"{where} has norm_kwargs {_shown(options)}: expected eps only")
    return float(eps)


def _check_keys(part: Mapping[str, Any], where: str, known: set[str]) -> None:
    """Refuse keys that change what the model computes."""
    for key, why in _REFUSED.items():
        if part.get(key):
            raise UnsupportedModel(f"{where} has {key} {_shown(part[key])}: {why}")
    if part.get("block_type") not in (None, "default"):
        raise UnsupportedModel(f"{where} has block_type {_shown(part['block_type'])}: {_OWN_BLOCK}")
    others = {"act_kwargs", "norm_kwargs", "block_type", "timm_model_name", *_REFUSED, *_NO_EFFECT}
    for key in part:
        if key not in known | others and part[key] not in (None, False):
            raise UnsupportedModel(
                f"{where} has {sanitize(repr(key), 60)}, which sith-hf does not know, so the model may compute "
                f"something else; known keys: {', '.join(sorted(known))}"
            )


def _is_flat(weights: Path | None) -> bool:
    """Return whether a file has the names of a ``CLIP``; open_clip loads one as a ``CustomTextCLIP`` too."""
    if weights is not None:
        # Reading the tensors later says what is wrong with a file.
        with suppress(OSError, ValueError), TensorFile.read(weights) as (file, _):
            return "positional_embedding" in file.entries
    return False


def _object(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = data.get(key)
    if not isinstance(found, dict):
        raise InputError(f"{key} is missing or no JSON object: {_ADVICE}")
    return found


def _number(part: Mapping[str, Any], where: str, key: str, default: Any) -> int:
    value = part.get(key, default)
    if type(value) is not int or not 0 < value < 2**31:
        raise InputError(f"{where} has {key} {_shown(value)}, expected a whole number from 1 on: {_ADVICE}")
    return value


def _side(part: Mapping[str, Any], where: str, key: str) -> int:
    value = part.get(key, _VISION[key])
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    elif isinstance(value, list):
        raise UnsupportedModel(f"{where} has {key} {_shown(value)}: only square images and patches are supported")
    return _number({key: value}, where, key, None)


def _choice(part: Mapping[str, Any], where: str, key: str, known: tuple[str, ...]) -> str:
    value = part.get(key, known[0])
    if value not in known:
        raise UnsupportedModel(f"{where} has {key} {_shown(value)}: expected one of {', '.join(known)}")
    return str(value)


def _shown(value: object) -> str:
    return sanitize(repr(value), 60)
