"""Build the page and serve it, if Gradio is installed."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING

from sith_hf.errors import MissingExtra
from sith_hf.explore.address import check_address, in_use, is_loopback
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.stubs import no_stubs
from sith_hf.explore.warm import warm_up
from sith_hf.files import scratch_folder

if TYPE_CHECKING:
    from gradio import Blocks

HOST, PORT = "127.0.0.1", 7860
EVERY = "0.0.0.0"
# The largest upload, in Gradio's words. A picture of 100 megapixels is smaller as JPEG and mostly as PNG.
MAX_UPLOAD = "200mb"


def build_app(explorer: Explorer) -> Blocks:
    """Return the page as a Gradio app. Raises MissingExtra without Gradio."""
    # Gradio reads these when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        with no_stubs():
            from sith_hf.explore.app import page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise MissingExtra("gradio", "explore") from None
    return page(explorer)


@dataclass(frozen=True, eq=False)
class Served:
    """A page that is being served; a context manager.

    Attributes:
        url: its address for a browser on this machine.
        host: the address that it is bound to.
    """

    url: str
    host: str
    _held: ExitStack

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        """Block until Ctrl-C, which raises KeyboardInterrupt."""
        Event().wait()

    def close(self) -> None:
        """Stop serving and delete what was uploaded."""
        self._held.close()


def launch(
    explorer: Explorer, *, host: str | None = None, port: int | None = None, mcp: bool = False, wait: bool = True
) -> Served:
    """Serve the page until Ctrl-C.

    Uploads are in a temporary folder that is deleted in the end. Bound to an address of this machine only, the page
    refuses requests that pages of other sites send; bound to any other, it reads and writes no folder that a reader
    names (``Explorer.local``).

    Args:
        explorer: what it shows.
        host: the address to bind to: 127.0.0.1 when None, or every address inside a Space. Everyone who reaches it can
            use the page.
        port: the port: 7860 when None, or the one that a Space names.
        mcp: also serve search, explain and edit as MCP tools.
        wait: block until Ctrl-C; if not, return what is served, to be closed.

    Raises:
        InputError: the port is in use, or the host is not of this machine.
        MissingExtra: without Gradio.
    """
    space = "SPACE_ID" in os.environ
    host = host or (EVERY if space else HOST)
    port = port or (int(os.environ.get("GRADIO_SERVER_PORT", PORT)) if space else PORT)
    check_address(host, port)
    with ExitStack() as stack:
        stack.enter_context(_uploads())
        _serve(replace(explorer, local=explorer.local and is_loopback(host)), host, port, mcp, stack)
        served = Served(f"http://{_name(host)}:{port}", host, stack.pop_all())
    if wait:
        with served:
            served.wait()
    return served


def _serve(explorer: Explorer, host: str, port: int, mcp: bool, stack: ExitStack) -> None:
    app = build_app(explorer)
    warm_up(explorer)
    from sith_hf.explore.app import LOOK
    from sith_hf.explore.guard import guards
    from sith_hf.explore.pulse import pulse

    try:
        with redirect_stdout(io.StringIO()), _environment(NO_PROXY="*", no_proxy="*"):
            app.launch(
                server_name=_in_url(host),
                server_port=port,
                mcp_server=mcp,
                prevent_thread_lock=True,
                share=False,
                ssr_mode=False,
                quiet=True,
                footer_links=[],
                run_history=False,
                max_file_size=MAX_UPLOAD,
                app_kwargs={"middleware": guards(host), "routes": [pulse(explorer)], "openapi_url": None},
                **LOOK,
            )
    except OSError:  # another process took the port meanwhile
        raise in_use(host, port) from None
    stack.callback(app.close, verbose=False)


def _name(host: str) -> str:
    """Return what a browser on this machine calls an address."""
    return "127.0.0.1" if host == EVERY else _in_url(host)


def _in_url(host: str) -> str:
    """Return an address as a URL has it, and Gradio expects it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


@contextmanager
def _uploads() -> Iterator[None]:
    """Let Gradio keep files in a folder that is deleted in the end."""
    with scratch_folder() as folder, _environment(GRADIO_TEMP_DIR=str(folder)):
        yield


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables of the environment, and restore them in the end."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
