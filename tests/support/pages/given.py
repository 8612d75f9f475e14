"""What pages take for granted, made small: models, pictures, and the results of the demo and of other pages."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPVisionModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from sith_hf import ConceptDictionary, Decomposition, SithEditor
from sith_hf.charts import new_sheet
from sith_hf.demo.train import words
from sith_hf.demo.vocabulary import build_tokenizer
from sith_hf.world import TIED_PAIRS, concepts, embedded_checkpoint, render, sample_groups
from tests.support import published, tiny, vision_models

# What pages say to a real CLIP, and the word of the drawn world that means as much to its stand-in.
SYNONYMS = {"beach": "sea", "bird": "boat"}

Maker = Callable[[Path], object]


class Given:
    """Makes the folders that pages name.

    Args:
        keep: a folder for what several pages take.
    """

    def __init__(self, keep: Path) -> None:
        self.keep = keep
        self.makers: dict[str, Maker] = {
            "words.txt": self.earlier("words.txt"),
            "sith-demo": self.earlier("sith-demo"),
            "decomposition": self.earlier("sith-demo/decomposition"),
            "explained": self.earlier("sith-demo/decomposition"),
            "no-sea": self.earlier("sith-demo/spec"),
            "edit": self.earlier("sith-demo/spec"),
            "A": self.earlier("sith-demo/spec"),
            "B": self.earlier("sith-demo/spec"),
            "edited": self.earlier("sith-demo/edited"),
            "EDITED": self.earlier("sith-demo/edited"),
            "TUNED": self.earlier("sith-demo/edited"),
            "BASE": embedded,
            "MODEL": embedded,
            "clip": embedded,
            "DATASET": pictures,
            "my.yaml": lambda place: place.write_text("extends: demo\n", encoding="utf-8"),
            "imagefolder": pictures,
            "llava": llava,
            "dinov2": lambda place: vision_models.dinov2().save_pretrained(place),
            "spurious-decisions": self.decisions,
            "conceptnet.txt": self.published,
        }

    def folder(self, place: Path, names: tuple[str, ...]) -> Path:
        """Make the folder in which a page is read: the embedded checkpoint in it, and what it takes for granted."""
        (place / "sith_hf/demo").mkdir(parents=True)
        (place / "docs/images").mkdir(parents=True)
        embedded(place / "sith_hf/demo/checkpoint")
        for name in names:
            self.makers[name](place / name)
        return place

    def earlier(self, name: str) -> Maker:
        """A result of the demo, made with few pictures."""

        def make(place: Path) -> None:
            source = self._demo() / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, place)

        return make

    def published(self, place: Path) -> None:
        """The authors' file of one layer, with the concepts, the mean and the model beside it."""
        lines, mean = ["a sea", "red", "blue", "a boat", "the road", "snow"], np.linspace(0, 0.2, 24)
        model = tiny.save_clip(place.parent / "MODEL")
        made = SithEditor.from_pretrained(model).loaded
        (file,) = published.publish(
            self.keep, made.model, made.tokenizer, lines, layers=[2], mean=mean, words="conceptnet", sparsity=5
        )
        shutil.move(file, place.parent / file.name.replace("layer-02", "layer-2"))
        place.write_text("\n".join(lines) + "\n", encoding="utf-8")
        torch.save(torch.tensor(mean).float(), place.with_name("image_mean.pt"))

    def decisions(self, place: Path) -> None:
        """The decisions of the authors' judge, one line a vector, and the decomposition of the vectors beside them."""
        self.earlier("sith-demo/decomposition")(place.parent / "imported")
        found = Decomposition.from_pretrained(place.parent / "imported")
        place.mkdir()
        lines = "".join(f"{number % 5 + 1}\n" for number in range(found.weight[0, :, :, 0, 0].numel()))
        for layer in found.layers:
            (place / f"layer-{layer}_right_foldln_conceptnet_comp-0.3_sparsity-5.txt").write_text(lines)

    def _demo(self) -> Path:
        if not (self.keep / "words.txt").exists():
            editor = SithEditor.from_pretrained(embedded_checkpoint())
            explained = editor.decompose(ConceptDictionary.from_texts(concepts()), layers=[-2, -1])
            spec = editor.suppress("sea", "road").spec
            explained.save_pretrained(self.keep / "sith-demo/decomposition")
            spec.save_pretrained(self.keep / "sith-demo/spec")
            editor.save_pretrained(self.keep / "sith-demo/edited", spec)
            new_sheet(60, 40).save(self.keep / "sith-demo/groups.png")
            (self.keep / "words.txt").write_text("\n".join(concepts()) + "\n", encoding="utf-8")
        return self.keep


def embedded(place: Path) -> None:
    """The embedded checkpoint."""
    place.symlink_to(embedded_checkpoint())


def pictures(place: Path) -> None:
    """An image folder of boats and cars."""
    for number, (name, scenes) in enumerate(sample_groups(TIED_PAIRS[0], 12, 3).items()):
        folder = place / name.partition("/")[0]
        folder.mkdir(parents=True, exist_ok=True)
        for row, pixels in enumerate(render(scenes, number)):
            Image.fromarray(pixels).save(folder / f"{number}-{row}.png")


def llava(place: Path) -> None:
    """A LLaVA around the vision tower of the embedded checkpoint."""
    tower = CLIPVisionModel.from_pretrained(embedded_checkpoint())
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = LlamaConfig(**sizes, vocab_size=100)
    config = LlavaConfig(vision_config=tower.config, text_config=text, image_token_index=99)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.save_pretrained(place)


def hub_model(place: Path) -> Path:
    """The embedded checkpoint with other words for some things, in place of a model of the Hub."""
    model = CLIPModel.from_pretrained(embedded_checkpoint())
    before = json.loads((embedded_checkpoint() / "vocab.json").read_text(encoding="utf-8"))
    ours = {theirs: word for word, theirs in SYNONYMS.items()}
    tokenizer = build_tokenizer(ours.get(word, word) for word in words())
    rows = torch.zeros(len(tokenizer), model.config.text_config.hidden_size)
    old = model.text_model.embeddings.token_embedding
    for token, number in tokenizer.get_vocab().items():
        word = token.removesuffix("</w>")
        source = f"{SYNONYMS[word]}</w>" if word in SYNONYMS and token != word else token
        rows[number] = old.weight.detach()[before.get(source, 0)]
    model.text_model.embeddings.token_embedding = torch.nn.Embedding.from_pretrained(rows)
    text = model.config.text_config
    text.vocab_size, text.bos_token_id = len(tokenizer), tokenizer.bos_token_id
    text.eos_token_id = text.pad_token_id = tokenizer.eos_token_id
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    shutil.copyfile(embedded_checkpoint() / "preprocessor_config.json", place / "preprocessor_config.json")
    return place


def fill_in(sheet: Path) -> None:
    """Score the first row of a sheet of ``sith-hf judge --export``, as its reader would."""
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["score"] = "5"
    with sheet.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
