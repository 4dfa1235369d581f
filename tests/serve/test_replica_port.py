"""A service listens at the address of its node only."""

import contextlib

import psutil
import pytest

from fireedit.platform.cluster import HOST
from tests.serve.conftest import Client


@pytest.mark.ray
def test_replicas_and_proxy_listen_on_loopback_only(client: Client) -> None:
    listening: dict[str, set[str]] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    listening.setdefault(process.cmdline()[0], set()).add(each.laddr.ip.removeprefix("::ffff:"))
    assert {"Detector", "VLM", "UNet", "Gateway"} <= {name.rpartition(":")[2].partition(".")[0] for name in listening}
    assert set.union(*listening.values()) == {HOST}, listening
