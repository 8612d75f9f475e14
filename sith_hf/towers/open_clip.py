"""The family of open_clip's own files: CLIP with fused projections, in a folder that open_clip loads."""

from __future__ import annotations

import html
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sith_hf.towers.family import FamilyDefaults
from sith_hf.towers.model_settings import tower_settings
from sith_hf.towers.open_clip_config import ARCHITECTURE, MODEL_TYPE
from sith_hf.towers.readout import Readout
from sith_hf.towers.tensors import Paths, Tensors, norm_tensors, read_layers, read_norm
from sith_hf.towers.text_tower import TextTower
from sith_hf.towers.tokenizer import guarded, load_tokenizer, written
from sith_hf.towers.tower import Tower

_TOWER = {"vision": "visual", "text": "text"}
_NORM = {"vision": "ln_post", "text": "ln_final"}
_PROJECTION = {"vision": "proj", "text": "text_projection"}
# What a configuration says beyond CLIP's.
_SETTINGS = ("pool", "layer_scale", "pre_norm", "norm_after_pool", "causal", "clean", "strip_sep_token")
# Curly quotation marks to straight ones.
_QUOTES = {**dict.fromkeys((0x2BC, *range(0x2018, 0x201C)), "'"), **dict.fromkeys(range(0x201C, 0x2020), '"')}
# Ligatures, and letters as wide as Chinese ones.
_PLAIN = re.compile("[\ufb00-\ufb06\u0132\u0133\u01c4-\u01cc\u01f1-\u01f3\uff01-\uff5e\u3000]")
_ADVICE = "name the same model in transformers' form with text_model= (--text-model on the command line)"
_NO_TOKENIZER = (
    "this folder of open_clip has no tokenizer, since open_clip brings its own: put tokenizer.json, or vocab.json and "
    f"merges.txt, of openai/clip-vit-base-patch32 into it, or {_ADVICE}"
)


@dataclass(frozen=True)
class OpenClipFamily(FamilyDefaults):
    """open_clip's towers: layer norms, fused projections, optional layer scales; both are read and edited."""

    name: str = MODEL_TYPE
    advice: str = _ADVICE

    @property
    def model_types(self) -> Mapping[str, tuple[str, ...]]:
        """The type that :mod:`sith_hf.towers.open_clip_config` gives to a folder of open_clip."""
        return {MODEL_TYPE: (ARCHITECTURE,)}

    def towers(self, architecture: str) -> Mapping[str, str]:
        """Return the paths of the towers."""
        return dict(_TOWER)

    def prefix(self, kind: str) -> str:
        """Return the beginning of a tower's names on disk."""
        return "visual" if kind == "vision" else ""

    def locate(self, root: Any, kind: str) -> tuple[Any, str]:
        """Return the module of a tower and its path."""
        return getattr(root, _TOWER[kind]), _TOWER[kind]

    def outputs(self, tower: Any) -> Sequence[str]:
        """Return the paths of the output projections in a tower."""
        return [f"transformer.resblocks.{n}.attn.out_proj" for n in range(len(tower.transformer.resblocks))]

    def settings(self, config: Any, kind: str) -> dict[str, Any]:
        """Return the settings of a tower."""
        part = getattr(config, f"{kind}_config", config)
        return tower_settings(config, kind) | {name: getattr(part, name) for name in _SETTINGS if hasattr(part, name)}

    def read(self, model: Any, kind: str, companion: Any | None = None) -> Tower:
        """Read a tower; a companion only encodes texts."""
        tower, path = self.locate(model, kind)
        tensors = Tensors.of_model(self, model, path)
        paths = Paths("ln_1", "attn", "attn.out_proj", "ls_1.gamma" if tower.config.layer_scale else "", fused=True)
        heads, count = tower.config.num_attention_heads, len(tower.transformer.resblocks)
        readout = self.readout(tower, tensors, kind)
        return Tower(
            num_heads=heads,
            layers=read_layers(tensors, "transformer.resblocks", count, heads, readout, paths),
            kind=kind,
            family=self.name,
            settings=self.settings(model.config, kind),
        )

    def readout(self, tower: Any, tensors: Tensors, kind: str) -> Readout:
        """Return the way to the joint space, which is exact also where patches are averaged."""
        norm_path, name = _NORM[kind], _PROJECTION[kind]
        norm, bias = read_norm(tensors, norm_path, getattr(tower, norm_path).eps), None
        found = norm_tensors(tensors, norm_path, norm)
        if isinstance(getattr(tower, name), nn.Linear):
            matrix, bias = tensors.need(f"{name}.weight"), tensors.need(f"{name}.bias")
            found |= {tensors.name(f"{name}.weight"): matrix, tensors.name(f"{name}.bias"): bias}
        else:
            whole = tensors.need(name)
            matrix = whole.T
            found[tensors.name(name)] = whole
        return Readout(name=f"{norm_path}, {name}", matrix=matrix, norm=norm, bias=bias, tensors=found)

    def image_size(self, model: Any) -> int | None:
        """Return the side of the images that a model takes, in pixels."""
        return int(model.config.vision_config.image_size)

    def class_token(self, model: Any) -> Tensor:
        """Return the class token with its position embedding, ``[D]``."""
        found: Tensor = model.visual.class_embedding.detach() + model.visual.positional_embedding.detach()[0]
        return found

    def embed_images(self, model: Any, pixels: Tensor, projection: Tensor | None = None) -> Tensor:
        """Return image embeddings."""
        found: Tensor = model.get_image_features(pixels).pooler_output
        return found

    def has_text(self, architecture: str) -> bool:
        """Return True: every model of open_clip encodes texts."""
        return True

    def text(self, model: Any) -> TextTower:
        """Return the text tower, which includes its projection."""
        part = model.text.config
        return OpenClipTextTower(model, model.text, None, causal=part.causal and not _padded(part))


@dataclass(frozen=True, eq=False)
class OpenClipTextTower(TextTower):
    """A text tower that reads texts as open_clip's tokenizers write them: cleaned, and padded where padding matters."""

    no_tokenizer: str = _NO_TOKENIZER

    @property
    def weight(self) -> Tensor:
        """A parameter of the tower."""
        return next(self.tower.parameters()).detach()

    @property
    def joint_size(self) -> int:
        """The size of the joint space, P."""
        return int(self.config.projection_dim)

    def settings(self, tokenizer: Any | None) -> dict[str, Any]:
        """Return the settings of the tower and its tokenizer."""
        return super().settings(tokenizer) | OPEN_CLIP.settings(self.config, "text")

    def tokens(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, cleaned as open_clip cleans it (:func:`clean`)."""
        part = self.config
        cleaned = [clean(text, part.clean) for text in texts]
        if not _padded(part):
            return super().tokens(tokenizer, cleaned)
        length = part.max_position_embeddings
        found: list[list[int]] = written(tokenizer, cleaned, self.tower, length)["input_ids"]
        end = (getattr(tokenizer, "pad_token_id", None) or 0) if part.own_padding else 0
        tokens = [ids + [end] * (length - len(ids)) for ids in found]
        if part.strip_sep_token:
            tokens = [[0 if number == tokenizer.sep_token_id else number for number in ids] for ids in tokens]
        return tokens


def clean(text: str, how: str) -> str:
    """Return a text as open_clip's tokenizers clean it: ``"lower"``, ``"whitespace"`` or ``"canonicalize"``.

    Of what its ``ftfy`` repairs, quotation marks, ligatures and wide letters become plain ones; text that was decoded
    by a wrong encoding stays as it is.
    """
    text = _PLAIN.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text.translate(_QUOTES))
    text = html.unescape(html.unescape(text))
    if how == "canonicalize":
        text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation))
    text = " ".join(text.split())
    return text if how == "whitespace" else text.lower()


def open_clip_tokenizer(folder: Path) -> Any | None:
    """Return the tokenizer in an open_clip folder; None without one. Raises InputError for a damaged one."""
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return load_tokenizer(folder)
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocabulary.is_file() and merges.is_file()):
        return None
    from transformers import CLIPTokenizer

    return guarded(lambda: CLIPTokenizer(str(vocabulary), str(merges)), f"{folder}: its tokenizer cannot be loaded")


def _padded(part: Any) -> bool:
    """Return whether the padding behind a text may decide its embedding."""
    return not part.causal or part.pool not in ("argmax", "eos") or part.own_padding


OPEN_CLIP = OpenClipFamily()
