"""A cloud that is out of GPUs."""

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException


class SoldOut(FakeMultiNodeProvider):
    """Nodes that are processes on this machine, but none with a GPU."""

    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: dict[str, float], labels: Any
    ) -> None:
        if "GPU" in resources:
            raise NodeLaunchException("InsufficientInstanceCapacity", "no capacity in this zone", None)
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
