"""Models between the file and `onnx_ir`: load, save, metadata.

In memory a graph is an `onnx_ir.Model`. Tensors in external files stay there, memory-mapped, until
a pass reads their values.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from edgekit.export.sparse import put_sparse_tensors, take_sparse_tensors
from edgekit.runtime.errors import InputError, ModelFileError
from edgekit.runtime.files import replace_atomically
from edgekit.runtime.model_file import read_model, write_model
from edgekit.runtime.preprocessing import PREFIX, Preprocessing

# Protobuf cannot hold 2 GiB; what the graph itself needs beside its tensors fits in the rest.
LARGEST_INLINE_BYTES = 2_000_000_000


def load_graph(path: Path) -> ir.Model:
    """Read a model file; external tensors are mapped, not loaded.

    Raises:
        ModelFileError: the file is missing, damaged or not a valid ONNX model.
    """
    model = from_proto(read_model(path))
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
    return model


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a model atomically: one file, or two where protobuf's 2 GiB do not hold the tensors.

    Tensors that lie in external files are copied from there; the model in memory is unchanged.

    Raises:
        OutputError: the file cannot be written.
    """
    if tensor_bytes(model) <= LARGEST_INLINE_BYTES:
        write_model(to_proto(model), path)
        return
    with replace_atomically(path) as staged:
        ir.save(model, staged, external_data=f"{path.name}.data")


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
    folders = {str(t.base_dir) for t in tensors(model) if isinstance(t, ir.ExternalTensor)}
    for folder in folders:  # one at most: that of the file the model came from
        onnx.load_external_data_for_model(proto, folder)
    return proto


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
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor that the file stores: initializers and attributes, subgraphs included."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in nodes(model):
        yield from _attribute_tensors(node.attributes.values())


def tensor_bytes(model: ir.Model) -> int:
    """Bytes of all stored tensors together."""
    return sum(tensor.nbytes for tensor in tensors(model))


def _attribute_tensors(attributes: Iterable[ir.Attr]) -> Iterator[ir.TensorProtocol]:
    for attribute in attributes:
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            yield attribute.as_tensor()
        elif attribute.type == ir.AttributeType.TENSORS:
            yield from attribute.as_tensors()
