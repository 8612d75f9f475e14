"""``ConceptDictionary``: the texts that explanations are made of, and their embeddings."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf import artifacts
from sith_hf.artifacts import Layout
from sith_hf.display import plain
from sith_hf.encoding import encode_texts, fill_template
from sith_hf.errors import ArtifactError, InputError
from sith_hf.fingerprint import text_tower_sha256, texts_sha256
from sith_hf.pushable import Pushable

MAX_CHARACTERS = 1000

LAYOUT = Layout(
    format="sith-hf/dictionary",
    version=1,
    filename="dictionary.safetensors",
    tensors={
        "embeddings": (torch.float32, "M P"),
        "text_bytes": (torch.uint8, "bytes"),
        "text_offsets": (torch.int64, "offsets"),
    },
    data={
        "encoder": str,
        "encoder_sha256": str,
        "texts_sha256": str,
        "template": (str, type(None)),
        "categories": (list, type(None)),
        "libraries": dict,
    },
    repo_type="dataset",
)


@dataclass(frozen=True, eq=False)
class ConceptDictionary(Pushable):
    """M concepts and, once encoded, their embeddings by one text tower.

    Make one with :meth:`from_texts`, :meth:`from_file`, :meth:`from_dataset` or :meth:`builtin`, then
    :meth:`encode` it (``SithEditor.decompose`` does so by itself).

    Attributes:
        texts: the M concepts: trimmed, no two alike but for case.
        categories: the category of each, where the source has categories.
        template: the prompt that concepts are put into before encoding.
        embeddings: ``[M, P]`` float32, unit rows, not centred; None until encoded.
        encoder: the name of the model whose text tower encoded them.
        encoder_sha256: the fingerprint of that text tower.
        blank: how many blank lines the source had.
        duplicates: how many repeated concepts the source had.
    """

    texts: tuple[str, ...]
    categories: tuple[str, ...] | None = None
    template: str | None = None
    embeddings: Tensor | None = None
    encoder: str | None = None
    encoder_sha256: str | None = None
    blank: int = 0
    duplicates: int = 0

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        state = f"encoded by {plain(str(self.encoder))}" if self.embeddings is not None else "not encoded"
        left_out = f"{self.blank} blank and {self.duplicates} repeated left out"
        return f"ConceptDictionary({len(self)} concepts, {left_out}, {state})"

    @classmethod
    def from_texts(
        cls, texts: Iterable[str], *, template: str | None = None, categories: Sequence[str] | None = None
    ) -> ConceptDictionary:
        """A dictionary of ``texts``; blank and repeated ones are left out and counted.

        CLIP's tokenizers lower the case, so "Beach" and "beach" are one concept; the first spelling is kept.

        Raises:
            InputError: fewer than two concepts, one that is no text or longer than 1000 characters, categories
                that do not pair with the texts, or a template without its place.
        """
        if isinstance(texts, str):
            raise InputError("texts is a list of concepts, not one text")
        fill_template([], template)
        given = list(texts)
        if categories is not None and len(categories) != len(given):
            raise InputError(f"{len(given)} texts but {len(categories)} categories; give one category for each text")
        seen: dict[str, int] = {}
        kept: list[str] = []
        blank = 0
        for number, text in enumerate(given):
            if not isinstance(text, str):
                raise InputError(f"concept {number + 1} is {type(text).__name__}, not a text")
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise InputError(
                    f"concept {number + 1} cannot be written as UTF-8 (it holds half of a surrogate pair)"
                ) from None
            if len(text) > MAX_CHARACTERS:
                raise InputError(
                    f"concept {number + 1} has {len(text)} characters; a concept has at most {MAX_CHARACTERS}"
                )
            clean = tidy(text)
            if not clean:
                blank += 1
            elif clean.casefold() not in seen:
                seen[clean.casefold()] = number
                kept.append(clean)
        if len(kept) < 2:
            raise InputError(f"a dictionary needs at least two different concepts; this one has {len(kept)}")
        return cls(
            texts=tuple(kept),
            categories=None if categories is None else tuple(categories[number] for number in seen.values()),
            template=template,
            blank=blank,
            duplicates=len(given) - blank - len(kept),
        )

    @classmethod
    def from_file(cls, path: str | Path, *, template: str | None = None) -> ConceptDictionary:
        """A dictionary of a text file: UTF-8, one concept a line. Raises InputError as :meth:`from_texts` does."""
        try:
            raw = Path(path).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{path}: the concepts could not be read ({reason})") from None
        raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            lines = raw.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            raise InputError(f"{path}, line {line}: not UTF-8; save the file as UTF-8, one concept a line") from None
        if lines[-1] == "":
            lines.pop()
        try:
            return cls.from_texts(lines, template=template)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        column: str,
        *,
        split: str = "train",
        revision: str | None = None,
        template: str | None = None,
    ) -> ConceptDictionary:
        """A dictionary of one text column of a dataset.

        Args:
            dataset: a ``datasets.Dataset``, or a name or folder for ``datasets.load_dataset``.
            column: the column of texts.
            split, revision: as for ``load_dataset``; not used for a ``Dataset``.
            template: a prompt template.

        Raises:
            InputError: no such dataset or column, or texts that :meth:`from_texts` refuses.
        """
        if isinstance(dataset, (str, Path)):
            import datasets

            try:
                dataset = datasets.load_dataset(str(dataset), split=split, revision=revision)
            except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise InputError(f"dataset {dataset}: could not be loaded ({reason})") from None
        columns = getattr(dataset, "column_names", None)
        if not isinstance(columns, list):
            raise InputError(
                "dataset is a datasets.Dataset or a name for load_dataset; choose one split of a DatasetDict"
            )
        if column not in columns:
            raise InputError(f"the dataset has no column {column!r}; it has {', '.join(columns)}")
        return cls.from_texts(list(dataset[column]), template=template)

    @classmethod
    def builtin(cls, *, template: str | None = None) -> ConceptDictionary:
        """Our own list of more than 2,000 everyday visual concepts, with categories."""
        source = (files("sith_hf") / "builtin_concepts.yaml").read_text(encoding="utf-8")
        pairs = [(text, name) for name, texts in yaml.safe_load(source).items() for text in texts]
        return cls.from_texts([text for text, _ in pairs], categories=[name for _, name in pairs], template=template)

    def encode(self, model: Any, tokenizer: Any, name: str, *, progress: bool = False) -> ConceptDictionary:
        """This dictionary with embeddings by ``model``'s text tower (see :func:`sith_hf.encoding.encode_texts`).

        Args:
            model: a ``CLIPModel``.
            tokenizer: its tokenizer.
            name: what to call the model in the dictionary's provenance.
            progress: show a bar on stderr.
        """
        return replace(
            self,
            embeddings=encode_texts(model, tokenizer, self.texts, self.template, progress=progress),
            encoder=name,
            encoder_sha256=text_tower_sha256(model),
        )

    @cached_property
    def mean(self) -> Tensor:
        """The mean of the embeddings, ``[P]`` float32. Raises InputError before encoding."""
        return self._encoded().double().mean(dim=0).float()

    @cached_property
    def atoms(self) -> Tensor:
        """Centred embeddings of unit length, ``[M, P]`` float32: what pursuit works over (METHOD.md sec. 3)."""
        return centred(self._encoded(), self.mean)

    @cached_property
    def sha256(self) -> str:
        """The fingerprint of the texts, in order, with the template."""
        return texts_sha256([*self.texts, self.template or ""])

    def embedding_of(self, concept: str) -> Tensor | None:
        """The embedding of one of the concepts, ``[P]``, whatever its case; None if it is not among them."""
        index = position(self.texts, concept)
        return None if index is None else self._encoded()[index]

    def _encoded(self) -> Tensor:
        if self.embeddings is None:
            raise InputError("this dictionary has no embeddings yet: encode it first")
        return self.embeddings

    def to_dataset(self) -> Any:
        """A ``datasets.Dataset`` with one row for each concept: ``concept`` and, where there are any, ``category``."""
        from datasets import Dataset

        columns = {"concept": list(self.texts)}
        return Dataset.from_dict(columns if self.categories is None else {**columns, "category": [*self.categories]})

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``dictionary.safetensors`` into ``folder``. Raises InputError before encoding, OutputError."""
        data = {
            "encoder": self.encoder,
            "encoder_sha256": self.encoder_sha256,
            "texts_sha256": self.sha256,
            "template": self.template,
            "categories": None if self.categories is None else list(self.categories),
            "libraries": artifacts.library_versions(),
        }
        tensors = {"embeddings": self._encoded()} | artifacts.text_tensors(self.texts)
        return artifacts.write_artifact(folder, LAYOUT, tensors, data)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, revision: str | None = None, token: str | None = None
    ) -> ConceptDictionary:
        """Read what :meth:`save_pretrained` wrote, from a folder or a Hub repository. Raises ArtifactError."""
        path = artifacts.find_artifact(name_or_path, LAYOUT, revision, token)
        tensors, data = artifacts.read_artifact(path, LAYOUT)
        texts, embeddings = artifacts.texts_of(tensors, path), tensors["embeddings"]
        categories = (
            None if data["categories"] is None else artifacts.json_texts(data["categories"], f"{path}: categories")
        )
        artifacts.require(len(texts) == len(embeddings) >= 2, path, "texts and embeddings differ in number")
        artifacts.require(
            categories is None or len(categories) == len(texts), path, "texts and categories differ in number"
        )
        unit = torch.allclose(embeddings.norm(dim=-1), torch.ones(len(embeddings)), atol=1e-3)
        artifacts.require(unit, path, "the embeddings are not of unit length; make the file again")
        try:
            fill_template([], data["template"])
        except InputError as error:
            raise ArtifactError(f"{path}: {error}") from None
        result = cls(
            texts=texts,
            categories=categories,
            template=data["template"],
            embeddings=embeddings,
            encoder=data["encoder"],
            encoder_sha256=data["encoder_sha256"],
        )
        artifacts.require(result.sha256 == data["texts_sha256"], path, "the texts are not the ones that were saved")
        return result


def tidy(text: str) -> str:
    """A concept as a dictionary keeps it: no white space around it, single blanks inside, composed accents (NFC)."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def position(texts: Sequence[str], concept: str) -> int | None:
    """Where ``concept`` stands among ``texts``, whatever its case; None if it does not.

    Raises:
        InputError: the concept is no text, or blank.
    """
    if not isinstance(concept, str) or not tidy(concept):
        raise InputError(f"a concept is a text that is not blank; got {concept!r}")
    wanted = tidy(concept).casefold()
    return next((index for index, text in enumerate(texts) if text.casefold() == wanted), None)


def centred(embeddings: Tensor, mean: Tensor) -> Tensor:
    """Embeddings ``[..., P]`` less the dictionary's mean, unit length again (METHOD.md sec. 3).

    Raises:
        InputError: an embedding equals the mean, so that nothing is left of it.
    """
    difference = embeddings.double() - mean.double()
    lengths = difference.norm(dim=-1)
    if (lengths < 1e-6).any():
        raise InputError(
            "a concept's embedding equals the mean of the dictionary; give more, and more different, concepts"
        )
    return normalize(difference, dim=-1).float()
