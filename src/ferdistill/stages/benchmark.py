"""Stage `benchmark`: latency and memory of the bundle on the CPU, beside torch in the same rounds."""

from .. import workspace
from ..deployment import benchmark
from ..distill.models import load_network
from ..files import write_json
from ..params import Params


def run(params: Params) -> None:
    """Write `metrics/benchmark.json`."""
    network, _ = load_network(workspace.STUDENT)
    write_json(workspace.BENCHMARK_METRICS, benchmark.measure_beside_torch(network, workspace.BUNDLE, params.benchmark))
