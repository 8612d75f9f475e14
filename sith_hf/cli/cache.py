"""``sith-hf cache``: show or clear the text embeddings that are kept for later runs."""

from __future__ import annotations

import click

from sith_hf.cli import options
from sith_hf.cli.answer import FEW, details, show_answer


@click.command()
@click.option("--clear", is_flag=True, help="Remove the embeddings.")
@details
@options.as_json
def cache(clear: bool, as_json: bool) -> None:
    """Show the text embeddings that are kept for later runs, the last used first.

    Each list of concepts is encoded once by each text model. The embeddings are below SITH_HF_HOME, by default sith_hf
    in HF_HOME. They can be removed at any time: later runs encode again.
    """
    from datetime import UTC, datetime

    from sith_hf.core.escaping import sanitize
    from sith_hf.core.tables import table
    from sith_hf.files import EmbeddingCache

    kept = EmbeddingCache()
    found = kept.clear() if clear else kept.lists()
    size = sum(item.bytes for item in found)
    used = [datetime.fromtimestamp(item.last_used, UTC) for item in found]
    lists = [
        vars(item) | {"last_used": time.isoformat(timespec="seconds")} for item, time in zip(found, used, strict=True)
    ]
    data = {"folder": str(kept.folder), "cleared": clear, "bytes": size, "lists": lists}
    count = f"{len(found)} list{'s' * (len(found) != 1)} of concepts, {size / 1e6:.1f} MB"
    title = f"{'Removed ' * clear}{count}, in {sanitize(str(kept.folder), 1000)}"
    rows = [
        (
            "damaged" if item.concepts is None else item.concepts,
            item.encoder or "not known",
            item.template or "",
            f"{item.bytes / 1e6:.1f}",
            time.strftime("%Y-%m-%d %H:%M"),
        )
        for item, time in zip(found, used, strict=True)
    ]
    columns = ("concepts", "text model", "template", "MB", "last used (UTC)")
    shown = [] if clear else rows
    few = [table(columns, shown[:FEW])] if shown else []
    rest = [table(columns, shown[FEW:])] if shown[FEW:] else []
    show_answer(as_json, data, title, *few, rest=rest)
