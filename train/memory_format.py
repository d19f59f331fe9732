"""Whether a network can be trained with its activations stored channels last."""

from __future__ import annotations

from torch import nn

# A vector of AVX-512 holds 16 floats; one of AVX2, where the overrun was seen, holds 8.
_VECTOR = 16


def overrunning_layer(network: nn.Module) -> str | None:
    """The first layer whose backward pass on a CPU writes past its memory, channels last.

    It is a 1x1 convolution with a stride and fewer input channels than a vector has: there torch's
    kernels (seen with torch 2.13 on AVX2) corrupt the heap, and the process aborts sooner or later.

    Returns:
        Its name; None where there is none.
    """
    for name, layer in network.named_modules():
        if (
            isinstance(layer, nn.Conv2d)
            and set(layer.kernel_size) == {1}
            and set(layer.stride) != {1}
            and layer.in_channels < _VECTOR
        ):
            return str(name)
    return None
