"""torchvision, for the training code; see `edgekit.runtime.torchvision_import`."""

from __future__ import annotations

from edgekit.runtime.torchvision_import import import_torchvision

torchvision = import_torchvision()
