"""Operators that put values side by side along the channels, or take them apart.

Concat   Channels of a part stay or go with those of the value that it comes from; or the part goes
         as a whole where nothing after the Concat needs any of it, while others need the value.
         A Concat of a Concat is followed to the values behind both, where the inner one has other
         readers: the outer one then reads those values itself if the two no longer agree. That
         copies as many elements as before, and a part that goes saves its copy: always a win.
         Single channels are parted from a value that others need by a Gather before the Concat,
         where that is a win: the multiply-accumulates that readers save, less 128 for each element
         that the Gather copies, and less 500,000 for another node.
Split    Every output keeps one channel at least.
Slice    Only the channels that it takes are needed. Steps other than 1 along them are not followed.
Gather   Likewise, of stored indices along the channels; it goes where it takes all in order.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.export.liveness.channelwise import Channelwise
from edgekit.export.liveness.rule import Rule, Writer, followed
from edgekit.export.liveness.state import NOT_NEEDED, Ints, Liveness, Mask
from edgekit.export.passes.base import NotExactError, is_op, node_label, opset
from edgekit.export.passes.values import bypass, stored

T = TypeVar("T", bound=np.generic)

# What copying an element and running a node cost, in multiply-accumulates of a convolution.
MACS_PER_COPY = 128
MACS_PER_NODE = 500_000


class Concat(Rule):
    """A Concat along the channels."""

    def __init__(self, live: Liveness, node: ir.Node) -> None:
        super().__init__(live, node)
        dims = live.dims(self.output)
        axis = node.attributes.get_int("axis", 1)
        if axis != 1 and (dims is None or axis + len(dims) != 1):
            raise NotExactError("it does not join along the channels")
        self.parts: list[ir.Value] = []
        self._spans: list[tuple[ir.Value, int]] = []
        for value in node.inputs:
            followed(live, value)
            assert value is not None
            inner = live.parts.get(value)
            parts = inner if inner is not None and _has_other_readers(value) else [value]
            self.parts += parts
            self._spans.append((value, len(parts)))
        self.widths = [len(live.channels[part]) for part in self.parts]
        self._linked = [False] * len(self.parts)
        live.follow(
            self.output,
            live.new_classes(sum(self.widths)),
            np.concatenate([live.channels[part].constants for part in self.parts]),
        )
        live.parts[self.output] = self.parts

    def backward(self, live: Liveness) -> None:
        """Need the parts of what is needed, behind other Concats too."""
        by_part = self._by_part(live.channels[self.output].needs)
        for part, needs in zip(self.parts, by_part, strict=True):
            live.need(part, needs)

    def revive(self, live: Liveness) -> bool:
        """Tie each part of which something stays to the value that it comes from."""
        changed = False
        parts = self._by_part(live.channels[self.output].classes)
        for index, (part, classes) in enumerate(zip(self.parts, parts, strict=True)):
            source, wanted = live.channels[part].classes, live.stays(classes)
            if self._linked[index] or np.array_equal(wanted, live.stays(source) & wanted.any()):
                continue
            changed |= not live.stays(source[wanted]).all()
            live.revive(source[wanted])
            if not self._is_worth_parting(live, classes[live.stays(source) & ~wanted], wanted):
                live.join(classes, source)
                self._linked[index] = changed = True
        return changed

    def _is_worth_parting(self, live: Liveness, parted: Ints, wanted: Mask) -> bool:
        copies = int(wanted.sum()) * live.positions(self.output)
        return live.work(parted) > MACS_PER_COPY * copies + MACS_PER_NODE and copies > 0

    def shrink(self, live: Liveness, writer: Writer) -> int:
        """Read the values of which something stays, through inner Concats where they agree."""
        inputs = self._inputs(live, writer)
        if inputs != list(self.node.inputs):
            self.node.resize_inputs(len(inputs))
            for index, value in enumerate(inputs):
                self.node.replace_input_with(index, value)
        return 0

    def dropped(self, live: Liveness) -> int:
        """The channels that go here, while the values that they come from stay."""
        kept = self._by_part(live.kept(self.output))
        sources = (live.kept(part) for part in self.parts)
        return sum(int((source & ~mask).sum()) for source, mask in zip(sources, kept, strict=True))

    def _inputs(self, live: Liveness, writer: Writer) -> list[ir.Value]:
        kept = self._by_part(live.kept(self.output))
        inputs: list[ir.Value] = []
        start = 0
        for value, count in self._spans:
            masks = kept[start : start + count]
            if np.array_equal(np.concatenate(masks), live.kept(value)) and live.kept(value).any():
                inputs.append(value)
            else:
                parts = self.parts[start : start + count]
                inputs += [
                    self._taken(live, writer, part, mask)
                    for part, mask in zip(parts, masks, strict=True)
                    if mask.any()
                ]
            start += count
        return inputs

    def _taken(self, live: Liveness, writer: Writer, part: ir.Value, mask: Mask) -> ir.Value:
        """The channels of a part that stay here: the part itself where that is all it has."""
        kept = live.kept(part)
        if np.array_equal(kept, mask):
            return part
        name = writer.name(f"{part.name}_taken")
        taken = ir.Value(name=name, type=part.type)
        node = ir.node("Gather", [part, None], {"axis": 1}, outputs=[taken], name=name)
        graph = self.node.graph
        assert graph is not None
        graph.insert_before(self.node, node)
        writer.write(node, 1, np.flatnonzero(mask[kept]), f"{name}_indices")
        return taken

    def _by_part(self, array: NDArray[T]) -> list[NDArray[T]]:
        return np.split(array, np.cumsum(self.widths)[:-1])


class Split(Rule):
    """A Split along the channels."""

    def __init__(self, live: Liveness, node: ir.Node) -> None:
        super().__init__(live, node)
        source = followed(live, node.inputs[0])
        if node.attributes.get_int("axis", 0) != 1:
            raise NotExactError("it does not split the channels")
        shapes = [live.dims(output) for output in node.outputs]
        sizes = [dims[1] if dims is not None and len(dims) > 1 else None for dims in shapes]
        self.sizes = [size for size in sizes if isinstance(size, int)]
        if len(self.sizes) < len(sizes) or sum(self.sizes) != len(source):
            raise NotExactError("the sizes of its outputs are not known")
        cuts = np.cumsum(self.sizes)[:-1]
        for output, classes, constants in zip(
            node.outputs,
            np.split(source.classes, cuts),
            np.split(source.constants, cuts),
            strict=True,
        ):
            live.follow(output, classes, constants)

    def backward(self, live: Liveness) -> None:
        """Need what is needed of each output."""
        needs = [live.channels[output].needs for output in self.node.outputs]
        live.need(self.node.inputs[0], np.concatenate(needs))

    def revive(self, live: Liveness) -> bool:
        """Keep a channel in every output, as long as any output has one."""
        changed = False
        stay = [live.kept(output).any() for output in self.node.outputs]
        for output, stays in zip(self.node.outputs, stay, strict=True):
            if not stays and any(stay) and len(live.channels[output]):
                live.revive(live.channels[output].classes[-1:])
                changed = True
        return changed

    def shrink(self, live: Liveness, writer: Writer) -> int:
        """Write the new sizes."""
        sizes = np.array([live.kept(output).sum() for output in self.node.outputs], np.int64)
        if sizes.tolist() == self.sizes:
            return 0
        self.node.attributes.pop("num_outputs", None)
        if opset(live.model) < 13:
            self.node.attributes.add(ir.AttrInt64s("split", sizes.tolist()))
        else:
            writer.write(self.node, 1, sizes, f"{node_label(self.node)}_sizes")
        return 0


class Slice(Channelwise):
    """A Slice with stored bounds; along the channels in steps of 1."""

    def __init__(self, live: Liveness, node: ir.Node) -> None:
        source = followed(live, node.inputs[0])
        dims = live.dims(node.inputs[0])
        if opset(live.model) < 10 or dims is None:
            raise NotExactError("its input's rank is not known, or its bounds are in the old form")
        starts, ends, axes, steps = self._settings(node)
        where = [axis % len(dims) for axis in axes]
        self.index = where.index(1) if 1 in where else -1
        if self.index < 0:
            super().__init__(live, node)
            return
        Rule.__init__(self, live, node)
        if steps[self.index] != 1:
            raise NotExactError("it takes channels in steps other than 1")
        chosen = range(len(source))[slice(starts[self.index], ends[self.index])]
        if not chosen:
            raise NotExactError("it takes no channel")
        self.chosen = slice(chosen.start, chosen.stop)
        live.follow(self.output, source.classes[self.chosen], source.constants[self.chosen])

    def backward(self, live: Liveness) -> None:
        """Need the channels that are taken, where the result is needed."""
        if self.index < 0:
            super().backward(live)
            return
        source = followed(live, self.node.inputs[0])
        needs = np.full(len(source), NOT_NEEDED)
        needs[self.chosen] = live.channels[self.output].needs
        live.need(self.node.inputs[0], needs)

    def shrink(self, live: Liveness, writer: Writer) -> int:
        """Write the new bounds."""
        source = self.node.inputs[0]
        if self.index < 0 or source is None or live.kept(source).all():
            return 0
        keep = live.kept(source)
        bounds = (keep[: self.chosen.start].sum(), keep[: self.chosen.stop].sum())
        for index, bound in zip((1, 2), bounds, strict=True):
            tensor = stored(self.node.inputs[index])
            assert tensor is not None
            array = tensor.numpy().copy()
            array[self.index] = bound
            stem = f"{node_label(self.node)}_{'starts' if index == 1 else 'ends'}"
            writer.write(self.node, index, array, stem)
        return 0

    def _settings(self, node: ir.Node) -> list[list[int]]:
        settings = []
        for value in node.inputs[1:]:
            tensor = stored(value)
            if tensor is None and value is not None:
                raise NotExactError("its bounds are not stored")
            settings.append(None if tensor is None else tensor.numpy().tolist())
        settings += [None] * (4 - len(settings))
        count = len(settings[0] or ())
        axes = settings[2] if settings[2] is not None else list(range(count))
        steps = settings[3] if settings[3] is not None else [1] * count
        return [settings[0] or [], settings[1] or [], axes, steps]


class Gather(Rule):
    """A Gather of channels by stored indices."""

    def __init__(self, live: Liveness, node: ir.Node) -> None:
        super().__init__(live, node)
        source, indices = followed(live, node.inputs[0]), stored(node.inputs[1])
        if node.attributes.get_int("axis", 0) != 1 or indices is None or len(indices.shape) != 1:
            raise NotExactError("it is not known to take channels")
        self.indices = indices.numpy().astype(np.int64) % len(source)
        live.follow(self.output, source.classes[self.indices], source.constants[self.indices])

    def backward(self, live: Liveness) -> None:
        """Need the channels that are taken, where the result is needed."""
        source = followed(live, self.node.inputs[0])
        needs = np.full(len(source), NOT_NEEDED)
        np.maximum.at(needs, self.indices, live.channels[self.output].needs)
        live.need(self.node.inputs[0], needs)

    def shrink(self, live: Liveness, writer: Writer) -> int:
        """Write the new indices."""
        source = self.node.inputs[0]
        assert source is not None
        kept = live.kept(source)
        if kept.all():
            return 0
        places = (np.cumsum(kept) - 1)[self.indices[live.kept(self.output)]]
        writer.write(self.node, 1, places, f"{node_label(self.node)}_indices")
        return 0

    def remove_idle(self, live: Liveness) -> int:
        """Remove a Gather of all channels in order; returns how many there are."""
        source = self.node.inputs[0]
        width = len(followed(live, source))
        if source is None or self.output.is_graph_output():
            return 0
        if not np.array_equal(self.indices, np.arange(width)):
            return 0
        bypass(self.node, source)
        return width


def _has_other_readers(value: ir.Value) -> bool:
    """Whether a Concat's result is read by more than Concats."""
    readers = value.uses()
    return value.is_graph_output() or not all(is_op(use.node, "Concat") for use in readers)
