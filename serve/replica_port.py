"""Address of the port that Ray Serve opens in each replica for calls between deployments."""

import ray
from ray._common.network_utils import build_address
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica


def bind_to_node_address() -> None:
    """Let the replica in this process listen at its node's address only, where the other replicas call it.

    Ray 2.60 names all interfaces in ray/serve/_private/replica.py and has no setting for it. Serve opens the port when
    the deployment's constructor is done.
    """
    replica.add_port_to_grpc_server = lambda server, _: add_port_to_grpc_server(
        server, build_address(ray.util.get_node_ip_address(), 0)
    )
