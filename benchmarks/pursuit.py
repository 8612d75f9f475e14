"""COMP against its literal formulation, faiss, SPAMS and scikit-learn, and against the bare matrix products.

    python benchmarks/pursuit.py [--atoms 200000 --vectors 1024 --width 768 --sparsity 5 --data random --repeats 3]
    python benchmarks/pursuit.py --memory --atoms 1000000      peak memory, each variant in its own process
    python benchmarks/pursuit.py --growth --plot growth.png     cost against atoms, vectors and sparsity
    python benchmarks/pursuit.py --quick                       a quick test at small sizes

Variants, timed in turn within every repeat; ratios are medians over the repeats.

- ours: ``Pursuit(sparsity=K)(x, atoms)``, including the preparation of the dictionary (checks, int8 form).
- bare: only K products of all vectors with all atoms in float32; the faster of one product into a buffer ``[N, M]``
  (skipped above 2 GB) and of blocks into a buffer that stays in cache.
- literal: a residual product and a coherence product with the whole dictionary at every step, scores ``[N, M]``, dense
  ``[N, M]`` codes times the dictionary for the residual. It uses our batched refit: only the products are compared.
- faiss: ``IndexFlatIP.search`` for residual plus coherence in one query, with our refit; building the index is untimed.
- spams: ``spams.omp``, lambda 0. Another problem, without sign constraint and coherence; only its time is compared.
- sklearn: ``orthogonal_mp``, also another problem, on the first ``--sklearn-vectors`` vectors, time scaled up to all.

Chosen atoms are compared with ours; literal and faiss score in float32, so rounding may change a choice.

Data: ``random`` are independent normal directions, the hardest case for pruning. ``clustered`` is synthetic, too: a
spectrum that falls like 1 / sqrt(rank), 20 atoms a cluster, one coordinate 8 times as wide, vectors half spectrum and
half noise. Neither is a real dictionary.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import interleaved, medians, options, ratio, show, started, surroundings
from torch import Tensor

from sith_hf.evaluation.charts import Series, line_chart
from sith_hf.pursuit.nnls import nnls
from sith_hf.pursuit.pursuit import Pursuit

Variant = Callable[[Tensor, Tensor, int, float], Tensor | None]


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def made(kind: str, vectors: int, atoms: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return vectors and atoms, float32 unit rows."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if kind == "random":
        return unit(normal(vectors, width)), unit(normal(atoms, width))
    spectrum = torch.arange(1, width + 1) ** -0.5
    turn = torch.linalg.qr(normal(width, width)).Q
    centres = normal(max(2, atoms // 20), width) * spectrum
    rows = centres[torch.randint(len(centres), (atoms,), generator=generator)]
    for part in rows.split(2**16):
        part += 0.5 * normal(*part.shape) * spectrum
        part[:] = part @ turn
    rows[:, width // 3] *= 8
    rows -= rows.mean(0)
    rows /= rows.norm(dim=1, keepdim=True)
    half = unit(normal(vectors, width) * spectrum @ turn) + 0.5 * unit(normal(vectors, width))
    return unit(half), rows


def ours(x: Tensor, atoms: Tensor, sparsity: int, coherence: float) -> Tensor:
    return Pursuit(sparsity=sparsity, coherence_weight=coherence)(x, atoms).index


def literal(x: Tensor, atoms: Tensor, sparsity: int, coherence: float) -> Tensor:
    """Run COMP literally (Method, sec. 4), in float32 and without blocks."""
    count = len(x)
    chosen = torch.empty(count, 0, dtype=torch.long)
    codes = torch.zeros(count, len(atoms))
    residual = x
    for step in range(sparsity):
        score = residual @ atoms.T
        if step > 0:
            score += coherence * (atoms[chosen].mean(1) @ atoms.T)
        score.scatter_(1, chosen, -torch.inf)
        chosen = torch.cat([chosen, score.argmax(1, keepdim=True)], 1)
        codes.scatter_(1, chosen, refit(x, atoms, chosen)[1].float())
        residual = x - codes @ atoms
    return chosen


def refit(x: Tensor, atoms: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    picked = atoms[chosen].double()
    weight = nnls(picked @ picked.mT, (picked @ x.double().unsqueeze(2)).squeeze(2))
    return picked, weight


def faiss_comp(x: Tensor, index: Any, atoms: Tensor, sparsity: int, coherence: float) -> Tensor:
    """Run COMP with faiss for the scores; each step asks for one neighbour more than atoms chosen."""
    chosen = torch.empty(len(x), 0, dtype=torch.long)
    query = x
    for step in range(sparsity):
        found = torch.from_numpy(index.search(query.numpy(), step + 1)[1])
        new = (found.unsqueeze(2) != chosen.unsqueeze(1)).all(2)
        chosen = torch.cat([chosen, found.gather(1, new.int().argmax(1, keepdim=True))], 1)
        picked, weight = refit(x, atoms, chosen)
        query = (x.double() - (weight.unsqueeze(1) @ picked).squeeze(1) + coherence * picked.mean(1)).float()
    return chosen


def with_faiss(atoms: Tensor, threads: int) -> Variant:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(atoms.shape[1])
    index.add(atoms.numpy())
    return lambda x, atoms, sparsity, coherence: faiss_comp(x, index, atoms, sparsity, coherence)


def with_spams(atoms: Tensor, threads: int) -> Variant:
    import numpy
    import spams

    dictionary = numpy.asfortranarray(atoms.numpy().T)

    def run(x: Tensor, atoms: Tensor, sparsity: int, coherence: float) -> Tensor:
        vectors = numpy.asfortranarray(x.numpy().T)
        codes = spams.omp(vectors, dictionary, L=sparsity, eps=0.0, lambda1=0.0, numThreads=threads)
        return supports([codes[:, n].nonzero()[0] for n in range(len(x))], sparsity)

    return run


def with_sklearn(atoms: Tensor, count: int) -> Variant:
    from sklearn.linear_model import orthogonal_mp

    dictionary = atoms.numpy().T

    def run(x: Tensor, atoms: Tensor, sparsity: int, coherence: float) -> Tensor:
        codes = orthogonal_mp(dictionary, x[:count].numpy().T, n_nonzero_coefs=sparsity).reshape(len(atoms), -1)
        return supports([codes[:, n].nonzero()[0] for n in range(codes.shape[1])], sparsity)

    return run


def supports(rows: list[Any], sparsity: int) -> Tensor:
    return torch.tensor([[*row, *[-1] * (sparsity - len(row))] for row in rows])


def bare_whole(x: Tensor, atoms: Tensor, sparsity: int, coherence: float) -> None:
    out = torch.empty(len(x), len(atoms))
    for _ in range(sparsity):
        torch.matmul(x, atoms.T, out=out)


def bare_blocks(x: Tensor, atoms: Tensor, sparsity: int, coherence: float) -> None:
    width = max(64, 2**21 // len(x))
    out = torch.empty(len(x), width)
    for _ in range(sparsity):
        for start in range(0, len(atoms), width):
            block = atoms[start : start + width]
            torch.matmul(x, block.T, out=out[:, : len(block)])


def variant(name: str, atoms: Tensor, args: argparse.Namespace) -> Variant | None:
    """Return a variant by name; None, with a line on stderr, if its package is not installed."""
    plain: dict[str, Variant] = {
        "ours": ours, "bare, whole": bare_whole, "bare, blocks": bare_blocks, "literal": literal
    }  # fmt: skip
    if name in plain:
        return plain[name]
    try:
        if name == "sklearn":
            return with_sklearn(atoms, args.sklearn_vectors)
        return (with_faiss if name == "faiss" else with_spams)(atoms, args.threads)
    except ImportError as error:
        print(f"{name} is skipped: {error} (pip install faiss-cpu spams-bin)", file=sys.stderr)
        return None


def sizes(args: argparse.Namespace) -> dict[str, Any]:
    names = ("data", "vectors", "atoms", "width", "sparsity")
    return {name: getattr(args, name) for name in names} | {"lambda": args.coherence}


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    x, atoms = made(args.data, args.vectors, args.atoms, args.width, args.seed)
    names = ["ours", "bare, blocks", *(["bare, whole"] if x.shape[0] * len(atoms) * 4 <= 2**31 else []), *args.against]
    running = {name: found for name in names if (found := variant(name, atoms, args)) is not None}
    settings = (args.sparsity, args.coherence)
    chosen: dict[str, Tensor | None] = {}

    def timed(name: str) -> Callable[[], None]:
        return lambda: chosen.__setitem__(name, running[name](x, atoms, *settings))

    times = interleaved({name: timed(name) for name in running}, args.repeats, warm_up=not args.no_warm_up)
    if "sklearn" in times:
        scale = len(x) / min(len(x), args.sklearn_vectors)
        times["sklearn"] = [took * scale for took in times["sklearn"]]
    seconds = medians(times)
    bare = min((name for name in seconds if name.startswith("bare")), key=seconds.__getitem__)
    mine = chosen["ours"]
    assert mine is not None
    agreement, over_ours = {}, {}
    for name, index in chosen.items():
        if name != "ours":
            over_ours[name] = ratio(times, name, "ours")
        if name != "ours" and index is not None:
            same = (index.sort(1).values == mine[: len(index)].sort(1).values).all(1)
            agreement[name] = f"{int(same.sum())} of {len(index)}"
    result = {
        "sizes": sizes(args),
        "median_seconds": seconds,
        "fastest_bare": bare,
        "ours_over_bare": ratio(times, "ours", bare),
        "over_ours": over_ours,
        "vectors_with_our_atoms": agreement,
        **surroundings(args.repeats),
    }
    findings = [f"ours / {bare}: {result['ours_over_bare']:.3f}  (bar: 1.0 from 200,000 atoms on)"]
    findings += [f"{name} / ours: {over:.2f}" for name, over in over_ours.items() if not name.startswith("bare")]
    findings += [f"same atoms as ours, {name}: {count} vectors" for name, count in agreement.items()]
    return result, findings


def resident(field: str) -> int:
    """Return ``VmRSS`` (now) or ``VmHWM`` (peak since :func:`forget`) of this process, in bytes. Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def forget() -> int:
    """Reset the peak memory and return the resident memory."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def stored(folder: Path, atoms: Tensor, dtype: torch.dtype) -> Path:
    """Write a dictionary file of ``atoms`` with invented concepts."""
    from sith_hf.concepts.dictionary import ConceptDictionary

    texts = tuple(f"concept {number}" for number in range(len(atoms)))
    dictionary = ConceptDictionary(texts, embeddings=atoms, encoder="none", encoder_sha256="0")
    return dictionary.save_pretrained(folder, dtype)


def one(args: argparse.Namespace) -> dict[str, float]:
    """Return the peak memory of one variant in this process, also without its arguments."""
    if args.one.startswith("stored"):
        from sith_hf.concepts.dictionary import ConceptDictionary

        x, _ = made(args.data, args.vectors, 2, args.width, args.seed)
        before = forget()
        dictionary = ConceptDictionary.from_pretrained(args.file, in_memory=False)
        Pursuit(sparsity=args.sparsity, coherence_weight=args.coherence)(x, dictionary.streamed_atoms)
        return {"beside": resident("VmHWM") - before, "in_all": resident("VmHWM")}
    x, atoms = made(args.data, args.vectors, args.atoms, args.width, args.seed)
    before = forget()
    run = variant(args.one, atoms, args)
    if run is not None:
        run(x, atoms, args.sparsity, args.coherence)
    return {"beside": resident("VmHWM") - before, "in_all": resident("VmHWM")}


def memory(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Measure the peak memory of each variant in its own process."""
    command = [sys.executable, __file__, "--json", *(item for name in ("data", "vectors", "atoms", "width", "sparsity",
               "coherence", "threads", "seed") for item in (f"--{name}", str(getattr(args, name))))]  # fmt: skip
    found: dict[str, dict[str, float]] = {}

    def ask(name: str, *more: str) -> None:
        ran = subprocess.run([*command, "--one", name, *more], check=True, capture_output=True, text=True)
        sys.stderr.write(ran.stderr)
        found[name] = json.loads(ran.stdout)

    for name in ("ours", *args.against):
        ask(name)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        for kind in ("float32", "float16"):
            write = [*command, "--one", "write", "--file", folder, "--dtype", kind]
            subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
            ask(f"stored {kind}", "--file", folder)
    bound = Pursuit(sparsity=args.sparsity).memory(args.vectors, args.atoms, args.width)
    findings = [
        f"{name:<16}{took['beside'] / 2**20:9.0f} MB besides its arguments, {took['in_all'] / 2**20:9.0f} MB in all"
        for name, took in found.items()
    ]
    findings.append(f"predicted: at most {bound / 2**20:.0f} MB besides the arguments")
    return {"sizes": sizes(args), "median_seconds": {}, "bytes": found, "bound": bound, **surroundings(1)}, findings


def growth(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Measure the seconds of ours as one size grows."""
    factor = 10 if args.quick else 1
    start = {"atoms": 100_000 // factor, "vectors": 512 // factor, "sparsity": 5}
    grown = {"atoms": (1, 2, 4), "vectors": (1, 2, 4), "sparsity": (1, 2, 4)}
    seconds: dict[str, float] = {}
    lines = []
    for name, times in grown.items():
        took = []
        for time in times:
            now = start | {name: start[name] * time}
            x, atoms = made(args.data, now["vectors"], now["atoms"], args.width, args.seed)
            call = {"ours": lambda x=x, atoms=atoms, k=now["sparsity"]: ours(x, atoms, k, args.coherence)}
            label = ", ".join(f"{key} {value}" for key, value in now.items())
            seconds[label] = medians(interleaved(call, args.repeats, warm_up=True))["ours"]
            took.append(seconds[label])
        lines.append(Series(f"{name}, from {start[name]:,}", list(times), [one / took[0] for one in took]))
    if args.plot:
        labels = {"x_label": "times as large", "y_label": "times as long"}
        line_chart(lines, args.plot, title="How the cost of COMP grows", **labels)
    return {"sizes": sizes(args), "median_seconds": seconds, **surroundings(args.repeats)}, []


def main() -> None:
    parser = options("COMP against other implementations", repeats=3)
    for name, default in (("vectors", 1024), ("atoms", 200_000), ("width", 768), ("sparsity", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--coherence", type=float, default=0.3, help="lambda")
    parser.add_argument("--data", choices=("random", "clustered"), default="random")
    parser.add_argument("--against", nargs="*", default=["literal", "faiss"], metavar="literal|faiss|spams|sklearn")
    parser.add_argument("--sklearn-vectors", type=int, default=8)
    parser.add_argument("--no-warm-up", action="store_true", help="count the first repeat too")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--plot", help="with --growth: a PNG file")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--scratch", help="a folder for dictionary files (--memory)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    args = started(parser)
    if args.quick:
        args.atoms, args.vectors, args.width = min(args.atoms, 8_000), min(args.vectors, 128), min(args.width, 600)
    if args.one == "write":
        stored(Path(args.file), made(args.data, 1, args.atoms, args.width, args.seed)[1], getattr(torch, args.dtype))
    elif args.one:
        print(json.dumps(one(args)))
    else:
        result, findings = (memory if args.memory else growth if args.growth else measure)(args)
        show("COMP", args, result, findings)


if __name__ == "__main__":
    main()
