"""A Hugging Face Hub on 127.0.0.1 for tests, used by the unmodified clients.

In a test module::

    pytest_plugins = ["tests.support.hub.fixtures"]          # the fixture ``hub``

    def test_push(hub):
        base = hub.seed("me/base", {"config.json": "{}", "model.safetensors": weights})   # no client needed; a sha
        fault = hub.fail("commit", status=500)                                            # the next commit fails
        done = run_client(hub, "from huggingface_hub import ...", token=hub.token)        # in a process of its own
        assert fault.struck == 1
        assert hub.repo("me/base").head() == base
        assert leaks(hub, done, tmp_path) == []

Accounts: ``hub.token`` (user ``me``, may write to ``me`` and ``team``), ``hub.read_token``, ``hub.useless_token`` (of
``me``, without rights), ``hub.other_token`` (user ``other``), ``hub.wrong_token`` (of nobody).

``hub.fail(route, ...)`` takes one of ``ROUTES`` or ``"*"`` and

- where: ``path`` (a pattern of ``namespace/name`` or ``namespace/name/file``; for ``lfs_put`` the file is its sha256),
  ``nth`` (first call that goes wrong, from 1), ``times`` (how many; None: all from then on);
- what: ``status`` (with ``message``, ``code`` for X-Error-Code, ``retry_after``); ``cut_upload=k`` (hangs up after k
  bytes of the request); ``cut_download=k`` (hangs up after k bytes of the body); ``drop=True`` (no answer at all);
  ``corrupt=i`` (byte i flipped: of the upload for ``lfs_put``, else of the answer); ``edit=function`` of those bytes;
  ``gate=Event`` (answers when the test sets it), with ``stall=k`` only after the first k bytes of the body;
  ``meanwhile=function`` (called before the work: another client's commit, say);
- ``after=True``: the work is done, and only then comes ``status`` or ``drop``: a commit that landed unbeknown.

A ``Fault`` counts ``calls`` and ``struck`` and sets ``arrived`` when a call waits at its gate. ``hub.requests`` and
``hub.count(route, method, path, status)`` tell what was asked; a request is on record before its answer is sent.
Large files are served and taken by a second port, as the Hub's storage is another host that must see no token.
"""

from tests.support.hub.client import ask, client_env, leaks, run_cli, run_client
from tests.support.hub.core import Hub
from tests.support.hub.faults import ROUTES, Fault
from tests.support.hub.server import Request

__all__ = ["ROUTES", "Fault", "Hub", "Request", "ask", "client_env", "leaks", "run_cli", "run_client"]
