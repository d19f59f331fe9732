"""What `--pack` and `--codebook` ask for."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgekit.export.optimize import Arrays
from edgekit.export.pack import Form, PackReport, pack
from edgekit.export.packing.codebook import check_bits


@dataclass(frozen=True)
class Packing:
    """How to pack.

    Attributes:
        form: "inline" or "function".
        codebook: Bits of the codes to round weights to; None to pack exactly.
    """

    form: Form = "inline"
    codebook: int | None = None

    @classmethod
    def chosen(cls, form: str | None, codebook: int | None) -> Packing | None:
        """What two options mean together; None where neither is given.

        Raises:
            InputError: the codebook's width is out of range.
        """
        if codebook is not None:
            check_bits(codebook)
        if form is None and codebook is None:
            return None
        return cls("function" if form == "function" else "inline", codebook)

    def apply(self, model: ir.Model, inputs: Arrays | None = None) -> tuple[ir.Model, PackReport]:
        """Pack a model.

        Args:
            model: The model; it is not changed.
            inputs: What to compare outputs on; random numbers where None.

        Raises:
            ModelFileError: the model cannot be run, its opset is too old, or it has no weights that
                a codebook rounds.
            PassError: onnxruntime does not make the same of the packed model.
        """
        result = pack(model, form=self.form, codebook=self.codebook, inputs=inputs)
        return result.model, result.report
