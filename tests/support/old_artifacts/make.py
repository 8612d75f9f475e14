"""Write the artifacts in this folder with the code of commit 1fa2649 (see README.md): ``python make.py REPOSITORY``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
TOPIC, JUDGE = "places", "a person"


def main(repository: Path) -> None:
    """Make one artifact of each kind, and write down what the code of that commit reads from each."""
    sys.path.insert(0, str(repository))
    os.chdir(tempfile.mkdtemp())
    from sith_hf.averaging import estimated_mean
    from sith_hf.image_mean import ImageMean
    from sith_hf.scores import Scores
    from tests.tiny import byte_tokenizer, clip_model, save_clip, vision_model

    from sith_hf import SithEditor
    from sith_hf.concepts import ConceptDictionary
    from sith_hf.decomposition import Decomposition
    from sith_hf.edits import EditSpec
    from sith_hf.pursuit import Pursuit

    tokenizer = byte_tokenizer(Path("bytes"))
    editor = SithEditor.from_model(clip_model(0), tokenizer, name="tiny")
    concepts = ConceptDictionary.from_texts(["beach", "Ocean", "café", "运动", "stop sign", "x-ray", "snow", "violin"])
    estimated_mean(editor).save_pretrained(HERE)
    editor.encode(concepts).save_pretrained(HERE)
    decomposition = editor.decompose(
        concepts,
        layers=[1, 2],
        rank=3,
        pursuit=Pursuit(sparsity=2),
        image_mean=ImageMean.from_pretrained(HERE).image_mean,
    )
    decomposition.save_pretrained(HERE)
    value = torch.randint(4, 21, decomposition.fidelity.shape, generator=torch.Generator().manual_seed(0)) / 4
    value[0, 0, 0, 0] = torch.nan
    Scores.of(decomposition, value, topic=TOPIC, judge=JUDGE, record={"by": "file"}).save_pretrained(HERE)
    editor.edit().vectors(0.0, layers=[2], heads=[1]).vectors(2.5, layers=[1], heads=[3]).spec.save_pretrained(HERE)

    # A checkpoint that is edited: the smallest tower, since its weights lie in the repository.
    vision_model(1, **TOWER).save_pretrained("base")
    tower = SithEditor.from_pretrained("base", text_model=save_clip(Path("clip"), vision=TOWER))
    tower.decompose(concepts, layers=[1], rank=2, pursuit=Pursuit(sparsity=2))
    shutil.rmtree(HERE / "edited", ignore_errors=True)
    tower.save_pretrained(HERE / "edited", tower.edit().vectors(-1.0, layers=[1]).spec)

    found, spec = Decomposition.from_pretrained(HERE), EditSpec.from_pretrained(HERE)
    scores, mean = Scores.from_pretrained(HERE), ImageMean.from_pretrained(HERE)
    with editor.applied(spec) as model:
        weights = {
            name: hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()
            for name, tensor in model.state_dict().items()
            if ".out_proj." in name and name.startswith("vision_model.encoder.layers.")
        }
    recorded = {
        "dictionary": {
            "texts": list(ConceptDictionary.from_pretrained(HERE).texts),
            "embeddings": ConceptDictionary.from_pretrained(HERE).embeddings.tolist(),
        },
        "image mean": {"count": mean.count, "values": mean.image_mean.tolist()},
        "decomposition": [
            {"where": [e.layer, e.head, e.vector, e.pole], "concepts": e.concepts, "fidelity": e.fidelity}
            for e in found.explanations()
        ],
        "scores": {"topic": scores.topic, "values": torch.nan_to_num(scores.value).tolist()},
        "spec": {"rows": spec.rows(), "applied": weights},
    }
    text = json.dumps(recorded, ensure_ascii=False, separators=(",", ":"))
    (HERE / "recorded.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
