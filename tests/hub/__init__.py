"""A Hugging Face Hub on 127.0.0.1 for tests; see the classes and functions exported here."""

from tests.hub.client import ask, client_env, leaks, run_cli, run_client
from tests.hub.core import Hub, Request
from tests.hub.faults import ROUTES, Fault

__all__ = ["ROUTES", "Fault", "Hub", "Request", "ask", "client_env", "leaks", "run_cli", "run_client"]
