"""The code, commands and citation that cards show. Texts from outside are literals that nothing can leave."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.escaping import impersonal, sanitize
from sith_hf.decomposition import Decomposition
from sith_hf.edits import EditEffect
from sith_hf.hub import is_repo_id

# Stands for the place of a folder in the code that cards show.
FOLDER = "path/to/this/folder"

CITATION = """\
@inproceedings{gentile2026weights,
  title     = {From Weights to Concepts: Data-Free Interpretability of {CLIP} via Singular Vector Decomposition},
  author    = {Gentile, Francesco and Dall'Asen, Nicola and Tonini, Francesco and Mancini, Massimiliano and
               Vaquero, Lorenzo and Ricci, Elisa},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2026},
  url       = {https://arxiv.org/abs/2603.24653}
}"""

# Files of an image processor and of a tokenizer, one of which a pipeline needs.
_IMAGES = ("preprocessor_config.json", "processor_config.json")
_TEXTS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")

_LABELS, _LONGEST_LABEL = 4, 60
_SOME_LABELS = ("a photo", "a drawing")

_PICTURE = 'picture = Image.new("RGB", (224, 224), "steelblue")  # yours: Image.open("photo.jpg")'


def pipeline_code(task: str, folder: Path, place: str, concepts: Sequence[str]) -> str | None:
    """Return Python that runs a checkpoint in a pipeline of transformers; None if its folder has no processor for it.

    Args:
        task: the name of the pipeline.
        folder: of the checkpoint.
        place: the repository or folder in the code.
        concepts: texts from outside; some become labels.
    """
    if task not in _CALLS or not all(any((folder / name).is_file() for name in each) for each in _CALLS[task][0]):
        return None
    _, name, call, show = _CALLS[task]
    short = [text for text in dict.fromkeys(concepts) if text.strip() and len(text) <= _LONGEST_LABEL][:_LABELS]
    labels = [*short, *_SOME_LABELS[: max(0, 2 - len(short))]]
    written = f"[{', '.join(literal(text) for text in labels)}]"
    picture = [] if task == "feature-extraction" else ["from PIL import Image"]
    lines = [*picture, "from transformers import pipeline", ""]
    lines += [_PICTURE] if picture else []
    lines += [f'{name} = pipeline("{task}", model="{place}")', *call.format(labels=written).split("\n"), show]
    return "\n".join(lines)


# Pipeline to the files that it needs, and its code.
_SHOW_LABELS = "for result in found:\n    print(f\"{result['label']}: {result['score']:.3f}\")"
_CALLS = {
    "zero-shot-image-classification": (
        (_IMAGES, _TEXTS), "classify", "found = classify(picture, candidate_labels={labels})", _SHOW_LABELS,
    ),
    "zero-shot-object-detection": (
        (_IMAGES, _TEXTS), "detect", "found = detect(picture, candidate_labels={labels})", _SHOW_LABELS,
    ),
    "image-classification": ((_IMAGES,), "classify", "found = classify(picture)", _SHOW_LABELS),
    "image-feature-extraction": (
        (_IMAGES,), "embed", "(features,) = embed(picture)",
        'print(f"{len(features)} tokens of size {len(features[0])}")',
    ),
    "feature-extraction": (
        (_TEXTS,), "embed", '(features,) = embed("a photo of a boat")',
        'print(f"{len(features)} tokens of size {len(features[0])}")',
    ),
}  # fmt: skip


def literal(text: str) -> str:
    """Return a text from outside as a Python literal in ASCII, on one line and without backticks."""
    return ascii(sanitize(impersonal(text), 4 * _LONGEST_LABEL)).replace("`", r"\x60")


def command(*parts: str) -> str:
    """Return a command line, quoted for a shell."""
    return " ".join(map(shlex.quote, parts))


def save_command(base: str, spec: str, effect: EditEffect | None = None) -> str:
    """Return the command that writes an edit into its base again, and measures its effect as it was measured."""
    parts = ["sith-hf", "save-edited", base, "--spec", spec, "-o", "again"]
    if effect is not None:
        parts += [] if effect.text_model is None else ["--text-model", effect.text_model]
        parts += effect.images.options
    return command(*parts)


def decompose_command(decomposition: Decomposition, base: str) -> str | None:
    """Return the command that makes a decomposition again; None for one that was imported, not computed.

    Args:
        decomposition: the decomposition.
        base: its base, as code names it; the revision is added for a Hub id.
    """
    settings = decomposition.settings
    if settings.get("reference"):
        return None
    parts = ["sith-hf", "decompose", base]
    parts += ["--revision", str(decomposition.base.revision)] if base == decomposition.base.name and "/" in base else []
    parts += [] if decomposition.tower == "vision" else ["--tower", decomposition.tower]
    parts += ["--layers", ",".join(map(str, decomposition.layers)), "--rank", str(decomposition.rank)]
    if decomposition.poles:
        parts += _explaining(decomposition)
    parts += ["--no-fold"] if settings.get("fold") is False else []
    if settings.get("centre") is not None and settings.get("centre") != settings.get("fold"):
        parts.append("--centre" if settings["centre"] else "--no-centre")
    return command(*parts, "-o", "again")


def needs_dictionary(decomposition: Decomposition) -> bool:
    """Return whether :func:`decompose_command` needs the dictionary: another one than the built-in list."""
    if not decomposition.poles or not decomposition.settings.get("dictionary_sha256"):
        return False
    own = decomposition.settings.get("dictionary_sha256"), decomposition.settings.get("template")
    builtin = ConceptDictionary.builtin()
    return own != (builtin.sha256, builtin.template)


def _explaining(decomposition: Decomposition) -> list[str]:
    """Return the options of ``sith-hf decompose`` about words; those that are the default are left out."""
    settings = decomposition.settings
    parts = ["--dictionary", "path/to/the/dictionary"] if needs_dictionary(decomposition) else []
    parts += [] if decomposition.poles == ("+", "-") else ["--poles", "".join(decomposition.poles)]
    parts += ["--side", "read"] if decomposition.side == "read" else []
    parts += ["--effect", "total"] if settings.get("effect") == "total" else []
    encoder = settings.get("encoder")
    if isinstance(encoder, str) and is_repo_id(encoder) and "/" in encoder and encoder != decomposition.base.name:
        parts += ["--text-model", encoder]
    for name in ("method", "sparsity", "coherence_weight"):
        value = settings.get(name)
        # A coherence weight belongs to COMP only.
        if isinstance(value, str | int | float) and (name != "coherence_weight" or settings.get("method") == "comp"):
            parts += [f"--{name.replace('_', '-')}", str(value)]
    parts += ["--image-mean", "path/to/the/image-mean"] if settings.get("image_mean") is True else []
    if decomposition.drivers is not None:
        drawn = str(decomposition.drivers.images.get("title", "")).startswith("drawn world: leaves")
        parts += ["--images", "leaves" if drawn else "path/to/the/images"]
    return parts
