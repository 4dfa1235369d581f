"""Cloud of one machine: the autoscaler of a local Ray starts and ends nodes that are processes beside its head."""

import json
from collections.abc import Mapping
from pathlib import Path

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from fireedit.platform.cluster import HOST, LocalRay, free_port

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
OBJECT_STORE_BYTES = 80 * 2**20
"""Memory for objects of each node; Ray's least is 75 MB."""
ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
"""Variables by which the autoscaler's second version takes the head for one that a cloud started."""


def start_on_fake_cloud(
    ray: LocalRay,
    log: Path,
    node_types: Mapping[str, Mapping[str, float]],
    max_nodes: int,
    idle_s: float,
    environment: Mapping[str, str],
    provider: str = PROVIDER,
) -> str:
    """Start a Ray whose head has no CPUs and whose autoscaler adds nodes.

    Args:
        log: file for Ray's output; the autoscaler's settings come beside it.
        node_types: resources of a node by the name of its type.
        max_nodes: nodes of each type, and of all together, beside the head.
        idle_s: seconds after which the autoscaler ends an idle node.
        environment: further variables of the Ray.
        provider: class of the cloud, for one that misbehaves.
    Returns:
        Address of the GCS, for RAY_ADDRESS.
    """
    address = f"{HOST}:{free_port(6400)}"
    cloud = {"type": "external", "module": provider, "gcs_address": address, "head_node_id": FAKE_HEAD_NODE_ID}
    workers = {
        name: {
            "resources": {**resources, "object_store_memory": OBJECT_STORE_BYTES},
            "node_config": {},
            "max_workers": max_nodes,
        }
        for name, resources in node_types.items()
    }
    head = {FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
    required = ("setup_commands", "head_setup_commands", "worker_setup_commands", "cluster_synced_files")
    settings = {name: list[str]() for name in required} | {
        "cluster_name": "fake",
        "provider": cloud | {"launch_multiple": True, "disable_node_updaters": True},
        "available_node_types": head | workers,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "max_workers": max_nodes,
        "idle_timeout_minutes": idle_s / 60,
    }
    file = log.with_name("autoscaling.json")
    file.write_text(json.dumps(settings))
    options = ["--num-cpus=0", f"--port={address.rpartition(':')[2]}", f"--autoscaling-config={file}"]
    ray.start(log, {**environment, **ENVIRONMENT}, [*options, f"--object-store-memory={OBJECT_STORE_BYTES}"])
    return address
