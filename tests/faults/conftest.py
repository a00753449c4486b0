"""One fork server and one small world for all tests of this folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.processes import Server
from faults.world import World, copy_code

if sys.platform != "linux":  # forks, /proc, seccomp
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that forks stages."""
    code = tmp_path_factory.mktemp("code")
    copy_code(code)
    server = Server(code)
    yield server
    server.close()


@pytest.fixture(scope="session")
def world(
    server: Server, tmp_path_factory: pytest.TempPathFactory, committed_params: dict[str, Any]
) -> World:
    """A project in which every stage has run once undisturbed."""
    return World(server, tmp_path_factory.mktemp("world"), committed_params)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a test puts its project; the stages' output is kept beside it."""
    yield tmp_path / "project"
    shutil.rmtree(tmp_path / "project", ignore_errors=True)  # a thousand of them fill a disk
