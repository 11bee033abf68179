"""What the image families share: from the caller's arrays to a node over planes, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from gpuconv.backends.numpy.tile import (
    ArraySource,
    Source,
    Values,
    compute,
    converted,
)
from gpuconv.backends.planes import image_planes
from gpuconv.dtypes import DType
from gpuconv.plan.filters import ImagePlan

P = TypeVar("P", bound=ImagePlan)


class ImageNode(Generic[P]):
    """An image plan over a source of its dtype. Families add `read`."""

    def __init__(self, plan: P, source: Source) -> None:
        self.plan = plan
        self.source = source
        self.shape = source.shape
        self.dtype: DType = plan.images.out_dtype


def run_images(
    node: Callable[[P, Source], Source],
    plan: P,
    inputs: Sequence[Values],
    outputs: Sequence[Values],
    elements: int | None = None,
) -> None:
    """Compute `node` over every stack of planes, in tiles of about `elements` pixels."""
    for images, out in image_planes((inputs[0], outputs[0]), plan.images.channels_last):
        source = converted(ArraySource(images), plan.images.dtype)
        compute(node(plan, source), out, elements, plan.halo)
