"""Operations by their text, one by one and drawn, and images for them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.reference import BORDERS

FILTERS = (
    "filter2d:kernel=emboss",
    "filter2d:kernel=[1,2;3,4;-5,6],anchor=(2,0),delta=3",
    "separable_filter2d:kernel_y=[1,2,1],kernel_x=[1,0,-1,3]",
    "gaussian_blur:sigma=1.5",
    "gaussian_blur:sigma=(0,3)",
    "box_blur:size=(3,6)",
    "sobel",
    "scharr:axis=1",
    "prewitt:axis=0",
    "laplacian",
    "sharpen:amount=0.7",
    "unsharp_mask:sigma=1.2,amount=2",
    "median_blur:size=3",
    "median_blur:size=(4,7)",
    "rank_filter:rank=-2,size=5",
    "dilate:size=(2,5)",
    "erode:footprint=[0,1,0;1,1,1;0,1,1]",
    "morph_open:size=4",
    "morph_close:footprint=[1,1,0;0,1,1]",
    "morph_gradient:size=(3,2)",
)

POOLS = (
    "max_pool2d:kernel_size=2",
    "max_pool2d:kernel_size=3,stride=2,padding=1,ceil_mode=true",
    "min_pool2d:kernel_size=(2,3),stride=(3,1),dilation=2",
    "avg_pool2d:kernel_size=3,stride=2,padding=1",
    "avg_pool2d:kernel_size=3,stride=2,padding=1,count_include_pad=false,ceil_mode=true",
    "avg_pool2d:kernel_size=5,stride=4,padding=(2,1),ceil_mode=true",
    "avg_pool2d:kernel_size=4,padding=same",
    "adaptive_avg_pool2d:output_size=(7,9)",
    "adaptive_avg_pool2d:output_size=(6,1)",
    "adaptive_max_pool2d:output_size=5",
)


def image(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


STEPS = st.one_of(
    st.tuples(st.sampled_from(FILTERS), st.sampled_from(BORDERS)).map(
        lambda p: f"{p[0]}{',' if ':' in p[0] else ':'}border={p[1]}"
    ),
    st.sampled_from(POOLS),
)
"""Any of them, filters with any border."""
