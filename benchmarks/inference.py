"""Inference of an edited vision tower against its base, and against the explicit form of the same edit.

    python benchmarks/inference.py [--model b32 --batch 4 --vectors 64 --threads 2 --repeats 9 --json]

- base: the unchanged tower.
- edited: the same tower with the edit written into ``out_proj``, as ``save-edited`` writes it.
- explicit: every edited layer computes ``sum over heads of softmax(...) x M_h^T`` with one explicit D x D matrix per
  head, the literal form of an edit (Method, sec. 6).

The tower has random weights in the sizes of a published one; weights do not change the time. All three forms get the
same pixels, and the outputs of edited and explicit are compared.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from common import interleaved, medians, options, ratio, show, started, surroundings
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from sith_hf.core.fingerprint import BaseRef
from sith_hf.decomposition.svd import factored_svd
from sith_hf.edits import Place
from sith_hf.edits.in_memory import applied
from sith_hf.edits.spec import EditSpec
from sith_hf.images.comparison import edited_copy
from sith_hf.towers import Tower, read_tower

SIZES = {
    "b32": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "patch_size": 32, "image_size": 224},
    "l14": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "patch_size": 14, "image_size": 224},
}  # fmt: skip


class ExplicitAttention(torch.nn.Module):
    """The attention of a layer with one explicit value-output matrix for each head."""

    def __init__(self, attention: Any, matrices: Tensor, constant: Tensor) -> None:
        super().__init__()
        self.attention, self.matrices, self.constant = attention, matrices, constant

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        batch, tokens, width = hidden_states.shape
        heads, size = self.matrices.shape[0], width // self.matrices.shape[0]
        query = self.attention.q_proj(hidden_states).view(batch, tokens, heads, size).transpose(1, 2)
        key = self.attention.k_proj(hidden_states).view(batch, tokens, heads, size).transpose(1, 2)
        pattern = torch.softmax(query @ key.transpose(-1, -2) * size**-0.5, dim=-1)
        moved = hidden_states.unsqueeze(1) @ self.matrices.transpose(-1, -2)
        return (pattern @ moved).sum(dim=1) + self.constant, None


def random_edit(tower: Tower, layers: range, vectors: int, generator: torch.Generator) -> EditSpec:
    """Return an edit that removes leading singular vectors of random heads of some layers."""
    terms: dict[str, list[Any]] = {name: [] for name in ("layer", "head", "vector", "write", "row", "constant")}
    sha256: dict[str, str] = {}
    for layer in layers:
        factors = tower.layers[layer].factors(tower.num_heads, fold=False, centre=False)
        svd = factored_svd(factors.write, factors.read)
        sha256 |= tower.sha256([layer])
        chosen = torch.randperm(tower.num_heads * 8, generator=generator)[: vectors // len(layers)].tolist()
        for head, vector in (divmod(number, 8) for number in sorted(chosen)):
            direction = svd.write[head, vector]
            row = direction @ factors.write[head]
            values = (layer, head, vector, direction.float(), row.float(), row @ factors.constant[head])
            for name, value in zip(terms, values, strict=True):
                terms[name].append(value)
    touched = {name for layer in layers for name in Place().names(layer)}
    return EditSpec.from_terms(
        **{name: torch.tensor(terms[name]) for name in ("layer", "head", "vector")},
        write=torch.stack(terms["write"]),
        row=torch.stack(terms["row"]),
        constant=torch.stack(terms["constant"]).float(),
        gain=torch.zeros(len(terms["layer"]), dtype=torch.float64),
        labels=[""] * len(terms["layer"]),
        base=BaseRef("random", None, {key: value for key, value in sha256.items() if key in touched}),
        settings={"fold": False, "centre": False},
    )


def explicit_copy(model: Any, spec: EditSpec) -> Any:
    """Return a copy with the edited layers in the explicit form."""
    with applied(model, spec):
        made = copy.deepcopy(model)
        for layer in spec.layers:
            attention = made.encoder.layers[layer].self_attn
            weight, heads = attention.out_proj.weight.detach(), model.config.num_attention_heads
            size = weight.shape[0] // heads
            values = attention.v_proj.weight.detach().view(heads, size, -1)
            write = weight.view(weight.shape[0], heads, size).permute(1, 0, 2)
            constant = weight @ attention.v_proj.bias.detach() + attention.out_proj.bias.detach()
            made.encoder.layers[layer].self_attn = ExplicitAttention(attention, write @ values, constant)
    return made


def measure(args: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(args.seed)
    config = CLIPVisionConfig(**SIZES[args.model], attn_implementation="sdpa")
    base = CLIPVisionModel(config).eval()
    last = range(config.num_hidden_layers - 4, config.num_hidden_layers)
    spec = random_edit(read_tower(base), last, args.vectors, torch.Generator().manual_seed(args.seed))
    models = {"base": base, "edited": edited_copy(base, spec), "explicit": explicit_copy(base, spec)}
    pixels = torch.randn(args.batch, 3, config.image_size, config.image_size)
    with torch.inference_mode():
        outputs = {name: model(pixel_values=pixels).pooler_output for name, model in models.items()}
        times = interleaved(
            {name: (lambda model=model: model(pixel_values=pixels)) for name, model in models.items()}, args.repeats
        )
    moved = float((outputs["edited"] - outputs["base"]).norm() / outputs["base"].norm())
    apart = float((outputs["edited"] - outputs["explicit"]).norm() / outputs["base"].norm())
    return {
        "sizes": {"model": args.model, "batch": args.batch, "edited layers": len(last), "vectors": len(spec)},
        "median_seconds": {name: round(took, 5) for name, took in medians(times).items()},
        "edited_over_base": round(ratio(times, "edited", "base"), 3),
        "explicit_over_edited": round(ratio(times, "explicit", "edited"), 2),
        "edited_moves": moved,
        "explicit_differs": apart,
        **surroundings(args.repeats),
    }


def main() -> None:
    parser = options("an edited vision tower against its base and the explicit form of the edit", repeats=9)
    parser.add_argument("--model", choices=tuple(SIZES), default="b32")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--vectors", type=int, default=64)
    args = started(parser)
    result = measure(args)
    findings = [
        f"edited / base: {result['edited_over_base']:.3f}  (bar: 1.00 within noise)",
        f"explicit / edited: {result['explicit_over_edited']:.2f}",
        f"the edit changes the output by {result['edited_moves']:.1e} of its length; edited and explicit differ by "
        f"{result['explicit_differs']:.1e}",
    ]
    show("inference", args, result, findings)


if __name__ == "__main__":
    main()
