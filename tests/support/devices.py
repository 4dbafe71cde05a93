"""Tests that run on the CPU everywhere, and again on a GPU where they are asked for with ``-m gpu``."""

from __future__ import annotations

import pytest
import torch

ON_A_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]
CUDA = pytest.param("cuda", marks=ON_A_GPU)

either_device = pytest.mark.parametrize("device", ["cpu", CUDA])
