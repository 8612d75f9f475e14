"""Why the method does not hold for some families that users try, as data: one reason for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_MERGES = (
    "its stages merge patches into tokens of another width (Swin), so there is no one residual stream, and what a head "
    "writes passes the weights of later stages before it reaches the joint space"
)
_CONVOLUTIONS = "its image tower is built of convolutions, which have no heads that write into a residual stream"
_QUERIES = (
    "a Q-Former stands between the vision tower and the texts: layers of cross-attention from queries of its own, so "
    "no fixed map leads from a direction of the residual stream to the joint space"
)
_FUSED = (
    "its images and texts meet in layers of cross-attention, not in one joint space, so no words explain a direction"
)
_INNER_NORM = (
    "a layer norm stands between value and output projection in every head (EVA-02), so no fixed matrix leads from "
    "what a head reads to what it writes, and there is nothing to factor"
)
_AFTER_NORM = (
    "a layer norm follows the output projection of every layer (EVA-02 E), so what a head writes depends on all other "
    "heads of the layer"
)
_POST_NORM = (
    "a layer norm stands on the residual stream after every layer, so what a layer writes is scaled again by each "
    "later one and reaches no joint space by a fixed map"
)
_NO_WORDS = (
    "it has no joint space with texts, so no words explain its directions; name a vision tower of a CLIP-like model"
)

# model_type of config.json to the reason.
REASONS: Mapping[str, str] = {
    "align": _CONVOLUTIONS,
    "blip-2": _QUERIES,
    "blip_2_qformer": _QUERIES,
    "bridgetower": _FUSED,
    "clap": f"it compares sounds with texts, and its audio tower is a Swin transformer: {_MERGES}",
    "clap_audio_model": f"its audio tower is a Swin transformer: {_MERGES}",
    "clap_text_model": _POST_NORM,
    "convnext": _CONVOLUTIONS,
    "convnextv2": _CONVOLUTIONS,
    "groupvit": "its tokens are merged into groups between stages, so what a head writes passes pools with own weights",
    "instructblip": _QUERIES,
    "instructblipvideo": _QUERIES,
    "mobilevit": _CONVOLUTIONS,
    "mobilevitv2": _CONVOLUTIONS,
    "resnet": _CONVOLUTIONS,
    "swin": _MERGES,
    "swinv2": _MERGES,
    "vilt": _FUSED,
    "vision-text-dual-encoder": (
        "its towers may be of any two families, so where heads, norms and projections are is not known; save the "
        "vision tower as a model of its own family"
    ),
    "xclip": "its frames exchange messages between layers, so what a head writes in one frame passes other weights",
}

# The beginning of a name of timm to the reason.
_NAMES: tuple[tuple[str, str], ...] = (
    (r"eva02_enormous", _AFTER_NORM),
    (r"eva02|eva-?02", _INNER_NORM),
    (r"(fastvit|mobileclip|mci\d)", f"MobileCLIP's image tower is a FastViT: {_CONVOLUTIONS}"),
    (r"(convnext|resnet|rn\d|efficientnet|coatnet|vitamin|nextvit|mobilevit|vit_\w*_mci)", _CONVOLUTIONS),
    (r"swin", _MERGES),
    (r"(vit\w*|naflexvit\w*)_(siglip|gap)|siglip", (
        "it is SigLIP as a model of timm, with other tensors than open_clip's own; take the same model in "
        "transformers' form, whose model_type is siglip"
    )),
)  # fmt: skip


# Classes that are not in transformers to the reason.
_CLASSES: Mapping[str, str] = {
    "EvaCLIPModel": f"it runs code of its repository, and where it is EVA-02: {_INNER_NORM}",
}


def refusal_of_name(name: str) -> str | None:
    """Return why a model of this name in timm is refused; None for a name that is not known."""
    return next((why for pattern, why in _NAMES if re.match(pattern, name.lower())), None)


def refusal(raw: Mapping[str, Any]) -> str | None:
    """Return why the model of the JSON of a ``config.json`` is refused; None for one that is not known."""
    model_type, given = raw.get("model_type"), raw.get("architectures")
    if isinstance(model_type, str) and model_type in REASONS:
        return REASONS[model_type]
    names = given if isinstance(given, (list, tuple)) else [given]
    found = next((_CLASSES[name] for name in names if isinstance(name, str) and name in _CLASSES), None)
    # timm writes the name of its architecture in place of a model_type.
    own = raw.get("architecture")
    return refusal_of_name(own) if found is None and isinstance(own, str) and model_type is None else found
