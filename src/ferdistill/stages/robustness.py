"""Stage `robustness`: score the student on the test split under corruptions in steps; nothing is chosen by it."""

from .. import workspace
from ..data import images, index
from ..distill import robustness
from ..distill.models import load_network
from ..evaluation import corruptions
from ..files import read_json, write_json, write_text
from ..params import Params


def run(params: Params) -> None:
    """Write `metrics/robustness.json` and `plots/robustness.csv`."""
    network, _ = load_network(workspace.STUDENT)
    rows = index.read(workspace.index_csv(params.index_tag))
    packed = images.load(workspace.images(params.index_tag), rows)
    fitted = read_json(workspace.CALIBRATION_METRICS, "t_star", "abstention")
    deployed = robustness.as_deployed(fitted["t_star"], fitted["abstention"]["threshold"], params)
    table = robustness.measure(network, rows, packed, params.classes, deployed, "corrupting images")
    write_json(workspace.ROBUSTNESS_METRICS, corruptions.summary(table))
    text = table.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    write_text(workspace.PLOTS / "robustness.csv", text)
