"""What is installed here, and what the installed onnxruntime can do that edgekit makes use of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper

from edgekit.export.pack import pack
from edgekit.runtime.errors import EdgekitError, ModelFileError
from edgekit.runtime.session import open_session

VERSIONS = ("onnxruntime", "onnx", "onnx-ir", "numpy")

_PACKAGE = "edgekit"
_EXTRA = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Extra:
    """An extra of edgekit's.

    Attributes:
        name: As in `pip install 'edgekit[name]'`.
        missing: Its packages that are not installed.
    """

    name: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Capabilities:
    """What there is to work with.

    Attributes:
        versions: Of the packages in `VERSIONS`.
        extras: edgekit's extras.
        thresholds_uint8: onnxruntime has Max and Min for uint8, so thresholds work on codes.
        thresholds_int8: The same for int8.
        unpacks_at_load: onnxruntime unpacks what `--pack` stores once, when it loads the model.
    """

    versions: dict[str, str]
    extras: tuple[Extra, ...]
    thresholds_uint8: bool
    thresholds_int8: bool
    unpacks_at_load: bool


def find_capabilities() -> Capabilities:
    """Look at the installed packages, and try onnxruntime out."""
    versions = {name: _version(name) or "not installed" for name in VERSIONS}
    return Capabilities(
        versions=versions | {"onnxruntime": str(ort.__version__)},
        extras=find_extras(),
        thresholds_uint8=_runs_thresholds("uint8"),
        thresholds_int8=_runs_thresholds("int8"),
        unpacks_at_load=_unpacks_at_load(),
    )


def find_extras() -> tuple[Extra, ...]:
    """The extras in edgekit's own metadata, but for those made of others."""
    packages: dict[str, list[str]] = {}
    for requirement in metadata.requires(_PACKAGE) or ():
        found, name = _EXTRA.search(requirement), _NAME.match(requirement)
        if found and name and name[0] != _PACKAGE:
            packages.setdefault(found[1], []).append(name[0])
    return tuple(
        Extra(extra, tuple(name for name in names if _version(name) is None))
        for extra, names in packages.items()
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _runs_thresholds(kind: str) -> bool:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 13]> g ({kind}[2] x, {kind}[2] low, {kind}[2] high)'
        f" => ({kind}[2] y) {{ above = Max(x, low) y = Min(above, high) }}"
    )
    codes = np.array([3, 5], kind)
    try:
        open_session(model).run(None, {"x": codes, "low": codes, "high": codes})
    except ModelFileError:
        return False
    return True


def _unpacks_at_load() -> bool:
    """Whether `pack`, which checks just that, succeeds on a convolution of many zeros."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1, 8, 4, 4] x) => (float[1, 32, 4, 4] y)'
        "{ y = Conv(x, w) }"
    )
    weights = np.zeros((32, 8, 1, 1), np.float32)
    weights[::4] = np.linspace(-1, 1, 64).reshape(8, 8, 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    try:
        pack(ir.from_proto(model))
    except EdgekitError:
        return False
    return True
