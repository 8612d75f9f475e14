"""``ConceptDictionary``: the texts that explanations are made of, and their embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from sith_hf.concepts.texts import column_of, distinct, lines_of
from sith_hf.concepts.texts import position as position
from sith_hf.concepts.texts import tidy as tidy
from sith_hf.core.escaping import sanitize
from sith_hf.core.fingerprint import text_tower_sha256, texts_sha256
from sith_hf.errors import ArtifactError, InputError
from sith_hf.files import (
    FileBackedRows,
    Layout,
    ResumableJob,
    RowBlocks,
    json_texts,
    library_versions,
    read_artifact,
    read_file_backed,
    require,
    text_tensors,
    texts_of,
    write_artifact,
)
from sith_hf.hub import Pushable, find_artifact
from sith_hf.pursuit import READ, Atoms, CentredAtoms, TensorAtoms, total
from sith_hf.pursuit import centred as centred
from sith_hf.towers import encode_texts, fill_template

IN_MEMORY = 2**28
"""Bytes of embeddings (256 MB) up to which they are read whole; larger ones stay in their file."""

ROUNDED = {torch.float32: 1e-3, torch.float16: 1e-3, torch.bfloat16: 5e-3}
"""How far the length of an embedding that is stored in a dtype may be from one."""

DICTIONARY_LAYOUT = Layout(
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
    rounded=("embeddings",),
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
        embeddings: ``[M, P]`` float32, unit rows, not centred; None until encoded. Of a dictionary that stays in its
            file, a map of it in the dtype that is stored there; ``embeddings_of`` gives float32 rows of either.
        encoder: the name of the model whose text tower encoded them.
        encoder_sha256: the fingerprint of that text tower.
        blank: how many blank lines the source had.
        duplicates: how many repeated concepts the source had.
        stored: the file that the embeddings stay in, where they do.
    """

    texts: tuple[str, ...]
    categories: tuple[str, ...] | None = None
    template: str | None = None
    embeddings: Tensor | None = None
    encoder: str | None = None
    encoder_sha256: str | None = None
    blank: int = 0
    duplicates: int = 0
    stored: FileBackedRows | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        state = f"encoded by {sanitize(str(self.encoder))}" if self.embeddings is not None else "not encoded"
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
        kept, numbers, blank = distinct(given)
        return cls(
            texts=kept,
            categories=None if categories is None else tuple(categories[number] for number in numbers),
            template=template,
            blank=blank,
            duplicates=len(given) - blank - len(kept),
        )

    @classmethod
    def from_file(cls, path: str | Path, *, template: str | None = None) -> ConceptDictionary:
        """A dictionary of a text file: UTF-8, one concept a line. Raises InputError as :meth:`from_texts` does."""
        lines = lines_of(path)
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
        return cls.from_texts(column_of(dataset, column, split, revision), template=template)

    @classmethod
    def builtin(cls, *, template: str | None = None) -> ConceptDictionary:
        """Our own list of more than 2,000 everyday visual concepts, with categories."""
        source = (files("sith_hf.concepts") / "builtin.yaml").read_text(encoding="utf-8")
        pairs = [(text, name) for name, texts in yaml.safe_load(source).items() for text in texts]
        return cls.from_texts([text for text, _ in pairs], categories=[name for _, name in pairs], template=template)

    def encode(
        self, model: Any, tokenizer: Any, name: str, *, job: ResumableJob | None = None, progress: bool = False
    ) -> ConceptDictionary:
        """This dictionary with embeddings by ``model``'s text tower (see :func:`sith_hf.towers.encode_texts`).

        Args:
            model: a ``CLIPModel``.
            tokenizer: its tokenizer.
            name: what to call the model in the dictionary's provenance.
            job: keeps finished batches, and shares batches between processes.
            progress: show a bar on stderr.
        """
        return replace(
            self,
            embeddings=encode_texts(model, tokenizer, self.texts, self.template, job=job, progress=progress),
            encoder=name,
            encoder_sha256=text_tower_sha256(model),
            stored=None,
        )

    @cached_property
    def rows(self) -> Atoms:
        """The embeddings as float32 rows, read a block or a few at a time. Raises InputError before encoding."""
        return self.stored or TensorAtoms(self._encoded())

    @cached_property
    def mean(self) -> Tensor:
        """The mean of the embeddings, ``[P]`` float32. Raises InputError before encoding."""
        return (total(self.rows) / len(self)).float()

    @cached_property
    def streamed_atoms(self) -> Atoms:
        """What pursuit works over (METHOD.md sec. 3): centred embeddings of unit length, ``[M, P]`` float32.

        Made a block at a time where the dictionary stays in its file or is large: no second copy of it is held.
        """
        if self.stored is None and self._encoded().nbytes <= IN_MEMORY:
            return TensorAtoms(self.atoms)
        return CentredAtoms(self.rows, self.mean)

    @cached_property
    def atoms(self) -> Tensor:
        """The same rows as ``streamed_atoms``, bit for bit, all of them in memory: ``[M, P]`` float32."""
        source = CentredAtoms(self.rows, self.mean)
        count, width = source.shape
        atoms = torch.empty(count, width)
        size = max(1, READ // width)
        for start in range(0, count, size):
            stop = min(start + size, count)
            atoms[start:stop] = centred(self.rows.block(start, stop), self.mean)
        return atoms

    def embeddings_of(self, index: Sequence[int] | Tensor) -> Tensor:
        """The embeddings of some concepts by their places, ``[S, P]`` float32. Raises InputError before encoding."""
        return self.rows.rows(torch.as_tensor(index, dtype=torch.long))

    @cached_property
    def sha256(self) -> str:
        """The fingerprint of the texts, in order, with the template."""
        return texts_sha256([*self.texts, self.template or ""])

    def embedding_of(self, concept: str) -> Tensor | None:
        """The embedding of one of the concepts, ``[P]``, whatever its case; None if it is not among them."""
        index = position(self.texts, concept)
        return None if index is None else self.embeddings_of([index])[0]

    def _encoded(self) -> Tensor:
        if self.embeddings is None:
            raise InputError("this dictionary has no embeddings yet: encode it first")
        return self.embeddings

    def to_dataset(self) -> Any:
        """A ``datasets.Dataset`` with one row for each concept: ``concept`` and, where there are any, ``category``."""
        from datasets import Dataset

        columns = {"concept": list(self.texts)}
        return Dataset.from_dict(columns if self.categories is None else {**columns, "category": [*self.categories]})

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write ``dictionary.safetensors`` into ``folder``.

        Args:
            folder: where to; made if it is missing.
            dtype: float32, or float16 or bfloat16 for half the size: the embeddings are then those rounded numbers.

        Raises:
            InputError: another dtype, or a dictionary that is not encoded.
            OutputError: the file could not be written.
        """
        if dtype not in ROUNDED:
            raise InputError(f"a dictionary is stored as float32, float16 or bfloat16; got {dtype}")
        data = {
            "encoder": self.encoder,
            "encoder_sha256": self.encoder_sha256,
            "texts_sha256": self.sha256,
            "template": self.template,
            "categories": None if self.categories is None else list(self.categories),
            "libraries": library_versions(),
        }
        tensors: dict[str, Tensor | RowBlocks] = {"embeddings": RowBlocks(self.rows, dtype)}
        tensors |= text_tensors(self.texts)
        return write_artifact(folder, DICTIONARY_LAYOUT, tensors, data)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        token: str | None = None,
        *,
        in_memory: bool | None = None,
    ) -> ConceptDictionary:
        """Read what :meth:`save_pretrained` wrote, from a folder or a Hub repository.

        Args:
            name_or_path, revision, token: where.
            in_memory: whether the embeddings are read whole; when None, a file of up to 256 MB is. Otherwise they stay
                in the file, which must not change as long as the dictionary is in use.

        Raises:
            ArtifactError: the file is missing, damaged or not ours; embeddings that are not finite or of unit length.
        """
        path = find_artifact(name_or_path, DICTIONARY_LAYOUT, revision, token)
        stored: FileBackedRows | None = None
        if path.stat().st_size <= IN_MEMORY if in_memory is None else in_memory:
            tensors, data = read_artifact(path, DICTIONARY_LAYOUT)
        else:
            tensors, data, stored = read_file_backed(path, DICTIONARY_LAYOUT, "embeddings")
        texts, embeddings = texts_of(tensors, path), tensors["embeddings"]
        categories = None if data["categories"] is None else json_texts(data["categories"], f"{path}: categories")
        require(len(texts) == len(embeddings) >= 2, path, "texts and embeddings differ in number")
        require(categories is None or len(categories) == len(texts), path, "texts and categories differ in number")
        _look_through(stored or TensorAtoms(embeddings), ROUNDED[embeddings.dtype], path)
        try:
            fill_template([], data["template"])
        except InputError as error:
            raise ArtifactError(f"{path}: {error}") from None
        result = cls(
            texts=texts,
            categories=categories,
            template=data["template"],
            embeddings=embeddings if stored else embeddings.float(),
            encoder=data["encoder"],
            encoder_sha256=data["encoder_sha256"],
            stored=stored,
        )
        require(result.sha256 == data["texts_sha256"], path, "the texts are not the ones that were saved")
        return result


def _look_through(embeddings: Atoms, tolerance: float, path: Path) -> None:
    count, width = embeddings.shape
    size = max(1, READ // max(width, 1))
    for start in range(0, count, size):
        length = embeddings.block(start, min(start + size, count)).float().norm(dim=-1)
        require(bool(length.isfinite().all()), path, "embeddings holds NaN or infinity; make the file again")
        unit = bool(((length - 1).abs() <= tolerance).all())
        require(unit, path, "the embeddings are not of unit length; make the file again")
