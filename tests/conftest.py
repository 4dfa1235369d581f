"""Fixtures shared by several test files: an S3 server and a local Ray."""

import logging
import os
from collections.abc import Iterator

import pytest

os.environ |= {  # for the S3 server below and for Ray Serve; Ray's workers inherit them
    "AWS_ACCESS_KEY_ID": "anyone",
    "AWS_SECRET_ACCESS_KEY": "anything",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "fireedit.serve.door:middlewares",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on loopback
    "RAY_AUTH_MODE": "disabled",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--studio-shots", help="folder for Studio's screenshots, which are made only with this option")
    parser.addoption("--studio-url", help="address of a running service to make them of, such as http://127.0.0.1:8000")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests of Ray last: the others fork processes, after which a Ray driver may no longer reach its cluster."""
    items.sort(key=lambda item: "ray" in item.keywords)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an empty bucket on a local S3 server, with the options to reach it."""
    import boto3
    from moto.server import ThreadedMotoServer

    os.environ.setdefault("FIREEDIT_SCRATCH", str(tmp_path_factory.mktemp("scratch")))  # copies of its folders

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="fireedit")
    yield f"s3://fireedit?endpoint_override={host}:{port}&scheme=http"
    server.stop()


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Local Ray shared by all tests that need one."""
    os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")  # ten times as often as usual
    import ray

    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=300_000_000, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()
