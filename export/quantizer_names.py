"""Keep a model's names apart from those that onnxruntime's quantizers give what they add.

They call the scale of `x` `x_scale`, its codes `x_quantized`, and so on, without a look at whether
a tensor has that name already; where one has, a layer reads the wrong one. Such tensors, whatever
they are to the graph, get another name while a quantizer works.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgekit.export.graph import from_proto, to_proto
from edgekit.export.passes.values import all_values, fresh_name, names

# What a name that a quantizer makes ends in, once or several times, behind that of a tensor.
_ENDING = re.compile(
    "_(scale|zero_point|quantized|dequantized|convert|MatMul|Transposed|output|cast|"
    "bias_reshape_shape|bias_reshape_output|(Quantize|Dequantize)Linear(_Input|_Output)?)$"
)


@dataclass(frozen=True)
class Aliases:
    """Other names for the tensors of one model.

    Attributes:
        stem: What the aliases, and no names of the model, begin with.
        of: The alias of each tensor that needs one.
    """

    stem: str
    of: Mapping[str, str]

    @classmethod
    def find(cls, model: ir.Model) -> Aliases:
        """The aliases that a model needs, subgraphs included."""
        taken, stem = names(model), "renamed"
        while any(name.startswith(stem) for name in taken):
            stem += "_"
        clashing = sorted(name for name in taken if _is_derived(name, taken))
        return cls(stem, {name: f"{stem}{index}" for index, name in enumerate(clashing)})

    def put(self, model: ir.Model) -> ir.Model:
        """The model with its aliases: a copy, or the model itself where there are none."""
        if not self.of:
            return model
        model = from_proto(to_proto(model))
        for value in list(all_values(model)):
            if value.name is not None:
                value.name = self.alias(value.name)
        return model

    def alias(self, name: str) -> str:
        """What a tensor is called in the meantime."""
        return self.of.get(name, name)

    def take_back(self, model: ir.Model) -> None:
        """Give what a quantizer made of the model the names of before, in place.

        What the quantizer added under one of them gets a number.
        """
        if not self.of:
            return
        taken = names(model) | set(self.of)
        values = list(all_values(model))
        for value in values:
            if value.name in self.of:
                value.name = fresh_name(taken, str(value.name))
        for value in values:
            original, ending = self._parts(value.name)
            if ending:
                value.name = fresh_name(taken, original + ending)
            elif original:
                value.name = original
        for node in model.graph:
            node.name = "".join(self._parts(node.name)) or node.name

    def _parts(self, name: str | None) -> tuple[str, str]:
        """What an alias in front stands for, and what follows it; nothing where there is none."""
        found = re.fullmatch(rf"({self.stem}\d+)(_.*)?", name or "", re.DOTALL)
        if found is None:
            return "", ""
        originals = {alias: original for original, alias in self.of.items()}
        return originals[found[1]], found[2] or ""


def _is_derived(name: str, taken: Collection[str]) -> bool:
    while ending := _ENDING.search(name):
        name = name[: ending.start()]
        if name in taken:
            return True
    return False
