"""Models between the file and `onnx_ir`: load, save, metadata.

In memory a graph is an `onnx_ir.Model`. Large tensors stay in the model's file, or in its external
ones, memory-mapped, until a pass reads their values.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgekit.export.sparse import put_sparse_tensors, take_sparse_tensors
from edgekit.runtime.errors import InputError, ModelFileError, naming
from edgekit.runtime.files import check_output, replace_atomically
from edgekit.runtime.model_file import map_model, write_parted
from edgekit.runtime.preprocessing import PREFIX, Preprocessing
from edgekit.runtime.wire import SMALLEST_PLACED, Writable

# Protobuf cannot hold 2 GiB; what the graph itself needs beside its tensors fits in the rest.
LARGEST_INLINE_BYTES = 2_000_000_000

# Before this version of the format an initializer had to be an input as well.
INITIALIZERS_ALONE = 4

# The standard operators' domain, whose short name is empty.
_FULL_DOMAIN = "ai.onnx"


def load_graph(path: Path) -> ir.Model:
    """Read a model file; large and external tensors are mapped, not loaded.

    Raises:
        ModelFileError: the file is missing, damaged or not a valid ONNX model.
    """
    proto, arrays = map_model(path)
    with naming(path):
        model = from_proto(proto)
    for name, array in arrays.items():
        model.graph.initializers[name].const_value = ir.Tensor(array, name=name)
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        ir.external_data.set_base_dir(graph, path.absolute().parent)
    return model


def from_proto(proto: onnx.ModelProto) -> ir.Model:
    """Turn a protobuf model into the form that the passes work on; sparse tensors become dense.

    Raises:
        ModelFileError: the graph names a value that nothing defines, a sparse tensor is damaged,
            or the like.
    """
    proto, sparse = take_sparse_tensors(proto)
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx_ir wraps whatever it meets, bare Exception included
        first_line = str(error.__cause__ or error).partition("\n")[0]
        raise ModelFileError(
            f"the graph cannot be read ({first_line}): check the model with onnx.checker"
        ) from error
    put_sparse_tensors(model, sparse)
    for opsets in (model.opset_imports, *(f.opset_imports for f in model.functions.values())):
        if _FULL_DOMAIN in opsets:
            opsets.setdefault("", opsets.pop(_FULL_DOMAIN))
    return model


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a model atomically: one file, or two where protobuf's 2 GiB do not hold the tensors.

    Tensors that lie in external files are copied from there; the model in memory is unchanged.

    Raises:
        OutputError: the file cannot be written.
    """
    if fits_inline(model):
        with tensors_aside(model) as aside:
            proto = ir.to_proto(model)
        _load_external(model, proto)
        # every tensor can write itself, which the protocol does not declare
        write_parted(proto, cast("dict[int, Writable]", aside), path)
        return
    with replace_atomically(path) as staged:
        ir.save(model, staged, external_data=data_file(path).name)


def fits_inline(model: ir.Model) -> bool:
    """Whether one file holds the model; else its tensors go into a second one."""
    return tensor_bytes(model) <= LARGEST_INLINE_BYTES


def data_file(path: Path) -> Path:
    """Where the tensors of a model lie that one file does not hold."""
    return path.with_name(f"{path.name}.data")


def check_data_file(
    model: ir.Model, path: Path, *, force: bool = False, inputs: Iterable[Path] = ()
) -> None:
    """Refuse an output whose second file would replace another, where the model needs one.

    Raises:
        OutputError: as `check_output`.
    """
    if not fits_inline(model):
        check_output(data_file(path), force=force, inputs=inputs)


def external_files(model: ir.Model) -> list[Path]:
    """The files beside its own that a model reads tensors from."""
    return sorted({Path(t.path) for t in tensors(model) if isinstance(t, ir.ExternalTensor)})


@contextmanager
def tensors_aside(model: ir.Model) -> Iterator[dict[int, ir.TensorProtocol]]:
    """Empty large initializers of the main graph, and give their tensors by index.

    The index counts the initializers that have a tensor, which is their index in the protobuf of
    the model. On leaving they are as before.
    """
    aside: dict[int, ir.TensorProtocol] = {}
    values = [v for v in model.graph.initializers.values() if v.const_value is not None]
    try:
        for index, value in enumerate(values):
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                continue
            if tensor.nbytes >= SMALLEST_PLACED or isinstance(tensor, ir.ExternalTensor):
                aside[index] = tensor
                value.const_value = _without_data(tensor)
        yield aside
    finally:
        for index, tensor in aside.items():
            values[index].const_value = tensor


def _without_data(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.LazyTensor(
        lambda: ir.tensor(np.zeros(0, np.uint8)),
        tensor.dtype,
        ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _load_external(model: ir.Model, proto: onnx.ModelProto) -> None:
    """Load what a message still keeps in external files."""
    folders = {str(t.base_dir) for t in tensors(model) if isinstance(t, ir.ExternalTensor)}
    for folder in folders:  # one at most: that of the file the model came from
        onnx.load_external_data_for_model(proto, folder)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Turn a model into protobuf with every tensor inside it.

    Raises:
        ModelFileError: the tensors are more than protobuf holds; `save_graph` writes such models.
    """
    size = tensor_bytes(model)
    if size > LARGEST_INLINE_BYTES:
        raise ModelFileError(
            f"the model holds {size:,} bytes of tensors, more than one protobuf message can: "
            "this step takes models below 2 GiB"
        )
    proto = ir.to_proto(model)
    _load_external(model, proto)
    return proto


def digest(model: ir.Model, *more: str) -> str:
    """SHA-256 of a model's graph and weights, whatever its metadata, and of `more`; hexadecimal."""
    proto = to_proto(model)
    del proto.metadata_props[:]
    found = hashlib.sha256(proto.SerializeToString(deterministic=True))
    found.update(repr(more).encode())
    return found.hexdigest()


@contextmanager
def session_source(model: ir.Model) -> Iterator[bytes | Path]:
    """Yield what onnxruntime can open: bytes, or a scratch file for a model too large for them."""
    if tensor_bytes(model) <= LARGEST_INLINE_BYTES:
        yield to_proto(model).SerializeToString()
        return
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "model.onnx"
        save_graph(model, path)
        yield path


def metadata(model: ir.Model) -> dict[str, str]:
    """What edgekit noted in the model: the `edgekit.*` entries, under their full keys."""
    return {key: value for key, value in model.metadata_props.items() if key.startswith(PREFIX)}


def set_metadata(model: ir.Model, entries: Mapping[str, str]) -> None:
    """Note entries in the model, in place of those with the same keys.

    Raises:
        InputError: a key does not begin with `edgekit.`.
    """
    for key in entries:
        if not key.startswith(PREFIX):
            raise InputError(f"metadata key {key!r} must begin with {PREFIX!r}")
    model.metadata_props.update(entries)


def model_preprocessing(model: ir.Model) -> Preprocessing | None:
    """The preprocessing that the model carries; None where it carries none.

    Raises:
        ModelFileError: the entries are damaged.
    """
    return Preprocessing.from_metadata(model.metadata_props)


def nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node: of the graph, of its subgraphs at any depth, and of the model's functions."""
    yield from graph_nodes(model.graph)
    for function in model.functions.values():
        yield from graph_nodes(function)


def store_constants(model: ir.Model) -> None:
    """Make every constant an initializer that is no graph input, in place."""
    ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveInitializersFromInputsPass(),
    )(model)
    model.ir_version = max(model.ir_version, INITIALIZERS_ALONE)


def inline_functions(model: ir.Model) -> None:
    """Put the bodies of the model's functions where they are called, in place.

    A function may name older versions of its operators than the model does. The format has it that
    they are the same then, which onnx's checker sees to.
    """
    for function in model.functions.values():
        known = model.opset_imports.items()
        function.opset_imports.update((k, v) for k, v in known if k in function.opset_imports)
    common.InlinePass()(model)


def graph_nodes(graph: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    """The nodes of a graph, each followed by those of its subgraphs."""
    for node in graph:
        yield node
        for subgraph in _subgraphs(node):
            yield from graph_nodes(subgraph)


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The graph, and its subgraphs at any depth."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [subgraph for node in graph for subgraph in _subgraphs(node)]


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    found: list[ir.Graph] = []
    for attribute in node.attributes.data.values():  # the dictionary itself, which is faster
        if attribute.type is ir.AttributeType.GRAPH and not attribute.is_ref():
            found.append(attribute.as_graph())
        elif attribute.type is ir.AttributeType.GRAPHS and not attribute.is_ref():
            found += attribute.as_graphs()
    return found


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor that the file stores: initializers and attributes, subgraphs included."""
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in nodes(model):
        yield from _attribute_tensors(node.attributes.values())


def tensor_bytes(model: ir.Model) -> int:
    """Bytes of all stored tensors together."""
    return sum(stored_bytes(tensor) for tensor in tensors(model))


def stored_bytes(tensor: ir.TensorProtocol) -> int:
    """Bytes of a tensor's data; of text, those of its characters."""
    if tensor.dtype == ir.DataType.STRING:
        return sum(len(text) for text in tensor.numpy().reshape(-1))
    return tensor.nbytes


def _attribute_tensors(attributes: Iterable[ir.Attr]) -> Iterator[ir.TensorProtocol]:
    for attribute in attributes:
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            yield attribute.as_tensor()
        elif attribute.type == ir.AttributeType.TENSORS:
            yield from attribute.as_tensors()
