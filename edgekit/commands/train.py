"""`edgekit train`: from a recipe to a run's folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.train.run import RunResult

RUNS = Path("runs")
# Where a recipe came from is no setting of the run.
_ORIGIN = ("text", "folder")


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        run: What it came to.
        settings: The whole recipe, defaults included, and where it was trained.
    """

    run: RunResult
    settings: dict[str, Any]


def train_recipe(
    recipe: str,
    output: Path | None,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    devices: int = 1,
    nodes: int = 1,
    accelerator: str = "auto",
    force: bool = False,
) -> TrainResult:
    """Train what a recipe describes, or go on where an interrupted run stopped.

    Args:
        recipe: A .toml file or the name of a shipped recipe.
        output: The run's folder; runs/ and the recipe's name by default.
        data_dir: Where named data sets live.
        download: Fetch a named data set that is not there.
        devices: Devices on each machine.
        nodes: Machines, each started by torchrun.
        accelerator: Kind of device, in Lightning's terms.
        force: Start over.

    Raises:
        EdgekitError: see edgekit.train.run.run_recipe.
    """
    from edgekit.train.recipe import load_recipe
    from edgekit.train.run import run_recipe

    loaded = load_recipe(recipe)
    run = run_recipe(
        loaded,
        output or RUNS / loaded.name,
        data_dir=data_dir,
        download=download,
        force=force,
        devices=devices,
        num_nodes=nodes,
        accelerator=accelerator,
    )
    settings = {key: value for key, value in asdict(loaded).items() if key not in _ORIGIN}
    settings |= {"accelerator": accelerator, "devices": devices, "nodes": nodes}
    settings["data_dir"] = None if data_dir is None else str(data_dir)
    return TrainResult(run, settings)
