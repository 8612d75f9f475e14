"""``ConceptDictionary``: the concepts that explanations consist of, and their embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from sith_hf.concepts.notebook import dictionary_html
from sith_hf.concepts.storage import DICTIONARY_LAYOUT, IN_MEMORY, ROUNDED, read_fields
from sith_hf.concepts.texts import column_of, distinct, lines_of, position, tidy
from sith_hf.core.escaping import sanitize
from sith_hf.core.fingerprint import texts_sha256
from sith_hf.errors import InputError
from sith_hf.files import (
    EmbeddingCache,
    FileBackedRows,
    ResumableJob,
    RowBlocks,
    library_versions,
    require,
    text_tensors,
    write_artifact,
)
from sith_hf.hub import Pushable, find_artifact
from sith_hf.pursuit import Atoms, CentredAtoms, TensorAtoms, blocks, centred, total
from sith_hf.towers import encode_texts, encoder_settings, fill_template, text_tower_sha256


@dataclass(frozen=True, eq=False)
class ConceptDictionary(Pushable):
    """M concepts and, once encoded, their embeddings by one text tower.

    Make one with :meth:`from_texts`, :meth:`from_file`, :meth:`from_dataset` or :meth:`builtin`, then :meth:`encode`
    it (``SithEditor.decompose`` does that itself).

    Attributes:
        texts: the M concepts: trimmed, unique ignoring case unless every line of a file was kept.
        categories: the category of each concept; None if the source has none.
        template: the prompt template for encoding.
        embeddings: ``[M, P]`` float32, unit rows, not centred; None until encoded. If they stay in their file, a memory
            map in the dtype on disk; ``embeddings_of`` returns float32 rows in both cases.
        encoder: the name of the model whose text tower encoded them.
        encoder_sha256: the fingerprint of that text tower.
        encoder_settings: its settings that are no tensors, and the fingerprint of its tokenizer
            (:func:`sith_hf.towers.encoder_settings`); None in files of earlier releases.
        blank: the number of blank lines in the source.
        duplicates: the number of repeated concepts in the source.
        stored: the file of the embeddings; None if they are in memory.
    """

    texts: tuple[str, ...]
    categories: tuple[str, ...] | None = None
    template: str | None = None
    embeddings: Tensor | None = None
    encoder: str | None = None
    encoder_sha256: str | None = None
    encoder_settings: Mapping[str, Any] | None = None
    blank: int = 0
    duplicates: int = 0
    stored: FileBackedRows | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        state = f"encoded by {sanitize(str(self.encoder))}" if self.embeddings is not None else "not encoded"
        left_out = f"{self.blank} blank and {self.duplicates} repeated left out"
        return f"ConceptDictionary({len(self)} concepts, {left_out}, {state})"

    def _repr_html_(self) -> str:
        encoded = self.embeddings is not None
        facts = {
            "encoded by": str(self.encoder) if encoded else "not encoded",
            "embeddings": " x ".join(f"{size:,}" for size in self.rows.shape) if encoded else None,
            "template": self.template,
            "categories": None if self.categories is None else f"{len(set(self.categories)):,}",
            "left out": f"{self.blank:,} blank, {self.duplicates:,} repeated",
        }
        return dictionary_html(self.texts, facts)

    @classmethod
    def from_texts(
        cls, texts: Iterable[str], *, template: str | None = None, categories: Sequence[str] | None = None
    ) -> ConceptDictionary:
        """Make a dictionary of ``texts``; blank and repeated ones are left out and counted.

        CLIP's tokenizers ignore case, so "Beach" and "beach" are one concept; the first spelling is kept.

        Raises:
            InputError: fewer than two concepts, one that is not a text or has more than 1000 characters, another
                number of categories than texts, or a template without exactly one ``{}``.
        """
        if isinstance(texts, str):
            raise InputError("texts must be a list of concepts; got one text")
        fill_template([], template)
        given = list(texts)
        if categories is not None and len(categories) != len(given):
            raise InputError(f"{len(given)} texts but {len(categories)} categories: give one category for each text")
        kept, numbers, blank = distinct(given)
        return cls(
            texts=kept,
            categories=None if categories is None else tuple(categories[number] for number in numbers),
            template=template,
            blank=blank,
            duplicates=len(given) - blank - len(kept),
        )

    @classmethod
    def from_file(cls, path: str | Path, *, template: str | None = None, every_line: bool = False) -> ConceptDictionary:
        """Read a UTF-8 text file with one concept per line; ``str.splitlines`` decides what a line is.

        Args:
            path: the file.
            template: a prompt template.
            every_line: keep blank and repeated lines as concepts, so that concept i is line i, counted from 0, and the
                mean is over all lines, as in the paper's files.

        Raises:
            InputError: a file that cannot be read, or as for :meth:`from_texts`.
        """
        lines = lines_of(path)
        try:
            found = cls.from_texts(lines, template=template)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        return replace(found, texts=tuple(map(tidy, lines)), blank=0, duplicates=0) if every_line else found

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        column: str,
        *,
        split: str | None = None,
        revision: str | None = None,
        config: str | None = None,
        template: str | None = None,
    ) -> ConceptDictionary:
        """Read a text column of a dataset; rows without a text are left out and counted as blank.

        Args:
            dataset: a ``datasets.Dataset``, the id of a dataset on the Hub, a folder or a file.
            column: the column of texts, or of a ``ClassLabel``, whose names are read.
            split: the split; when None the only one, or ``train`` of several. Ignored for a ``Dataset``.
            revision, config: branch, tag or commit, and configuration; ignored for a ``Dataset``.
            template: a prompt template.

        Raises:
            InputError: the dataset or column does not exist or cannot be read, or as for :meth:`from_texts`.
        """
        title, texts = column_of(dataset, column, split, revision, config)
        try:
            return cls.from_texts(texts, template=template)
        except InputError as error:
            raise InputError(f"{title}: {error}") from None

    @classmethod
    def builtin(cls, *, template: str | None = None) -> ConceptDictionary:
        """Read the built-in list of more than 2,000 everyday visual concepts, with categories."""
        texts, categories = zip(*_builtin(), strict=True)
        return cls.from_texts(texts, categories=categories, template=template)

    def encode(
        self, model: Any, tokenizer: Any, name: str, *, job: ResumableJob | None = None, progress: bool = False
    ) -> ConceptDictionary:
        """Return this dictionary with embeddings of ``model``'s text tower (see :func:`sith_hf.towers.encode_texts`).

        The embeddings are kept for later runs (:class:`sith_hf.files.EmbeddingCache`).

        Args:
            model: a model with a text tower.
            tokenizer: its tokenizer.
            name: the model's name in the dictionary's provenance.
            job: stores finished batches and distributes batches over its processes.
            progress: show a bar on stderr.
        """
        cache = EmbeddingCache(about={"encoder": name, "template": self.template})
        return replace(
            self,
            embeddings=encode_texts(
                model, tokenizer, self.texts, self.template, job=job, cache=cache, progress=progress
            ),
            encoder=name,
            encoder_sha256=text_tower_sha256(model),
            encoder_settings=encoder_settings(model, tokenizer),
            stored=None,
        )

    @cached_property
    def rows(self) -> Atoms:
        """The embeddings as float32 rows, read block by block. Raises InputError before encoding."""
        return self.stored or TensorAtoms(self._encoded())

    @cached_property
    def mean(self) -> Tensor:
        """The mean of the embeddings, ``[P]`` float32. Raises InputError before encoding."""
        return (total(self.rows) / len(self)).float()

    @cached_property
    def streamed_atoms(self) -> Atoms:
        """Centred embeddings of unit length, ``[M, P]`` float32, for pursuit (Method, sec. 3).

        Those of large and file-backed dictionaries are computed block by block, without a copy in memory.
        """
        if self.stored is None and self._encoded().nbytes <= IN_MEMORY:
            return TensorAtoms(self.atoms)
        return CentredAtoms(self.rows, self.mean)

    @cached_property
    def atoms(self) -> Tensor:
        """The same rows as ``streamed_atoms``, bit for bit, in memory: ``[M, P]`` float32."""
        atoms, filled = torch.empty(self.rows.shape), 0
        for block in blocks(self.rows):
            atoms[filled : filled + len(block)] = centred(block, self.mean)
            filled += len(block)
        return atoms

    def embeddings_of(self, index: Sequence[int] | Tensor) -> Tensor:
        """Return the embeddings of some concepts by index, ``[S, P]`` float32. Raises InputError before encoding."""
        return self.rows.rows(torch.as_tensor(index, dtype=torch.long))

    @property
    def encoder_record(self) -> dict[str, Any]:
        """The text tower that encoded the concepts, as JSON values, with its settings if they are known."""
        settings = {} if self.encoder_settings is None else {"encoder_settings": dict(self.encoder_settings)}
        return {"encoder": self.encoder, "encoder_sha256": self.encoder_sha256, **settings}

    @cached_property
    def sha256(self) -> str:
        """The fingerprint of the texts, in order, with the template."""
        return texts_sha256([*self.texts, self.template or ""])

    def embedding_of(self, concept: str) -> Tensor | None:
        """Return the embedding of a concept, ``[P]``, ignoring case; None if it is not in the dictionary."""
        index = position(self.texts, concept)
        return None if index is None else self.embeddings_of([index])[0]

    def _encoded(self) -> Tensor:
        if self.embeddings is None:
            raise InputError("this dictionary has no embeddings: encode it first")
        return self.embeddings

    def to_dataset(self) -> Any:
        """Return a ``datasets.Dataset`` with a row per concept: ``concept`` and, if known, ``category``."""
        from datasets import Dataset

        categories = {} if self.categories is None else {"category": list(self.categories)}
        return Dataset.from_dict({"concept": list(self.texts), **categories})

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write ``dictionary.safetensors`` into ``folder``.

        Args:
            folder: the target; created if missing.
            dtype: float32, or float16 or bfloat16 for half the size and rounded embeddings.

        Raises:
            InputError: another dtype, or a dictionary that is not encoded.
            OutputError: the file could not be written.
        """
        if dtype not in ROUNDED:
            raise InputError(f"the dtype of a dictionary must be float32, float16 or bfloat16; got {dtype}")
        data = {
            **self.encoder_record,
            "texts_sha256": self.sha256,
            "template": self.template,
            "categories": None if self.categories is None else list(self.categories),
            "libraries": library_versions(),
        }
        rows = RowBlocks(self.rows.shape, dtype, (block.to(dtype) for block in blocks(self.rows)))
        return write_artifact(folder, DICTIONARY_LAYOUT, {"embeddings": rows, **text_tensors(self.texts)}, data)

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
            name_or_path, revision, token: the folder or repository.
            in_memory: whether to read the embeddings into memory; when None, files of up to 256 MB are. Otherwise they
                stay in the file, which must not change while the dictionary is in use.

        Raises:
            ArtifactError: the file is missing, damaged or of another kind, or an embedding is not of unit length.
        """
        path = find_artifact(name_or_path, DICTIONARY_LAYOUT, revision, token)
        fields, made_of = read_fields(path, in_memory)
        result = cls(**fields)
        require(result.sha256 == made_of, path, "the texts differ from the saved ones")
        return result


@cache
def _builtin() -> tuple[tuple[str, str], ...]:
    """Read the texts of the built-in list, each with its category."""
    source = (files("sith_hf.concepts") / "builtin.yaml").read_text(encoding="utf-8")
    return tuple((text, name) for name, texts in yaml.safe_load(source).items() for text in texts)
