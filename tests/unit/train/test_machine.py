import pytest
import torch

from speechnar.train.loop import TrainConfig, cpu_computes_bf16
from speechnar.train.machine import tuned


def test_products_are_rounded_while_training_in_bfloat16_alone():
    before = torch.get_float32_matmul_precision()
    with tuned(TrainConfig(max_steps=1, device="cpu", precision="bf16")):
        assert torch.get_float32_matmul_precision() == ("medium" if cpu_computes_bf16() else before)
    with tuned(TrainConfig(max_steps=1, device="cpu")):
        assert torch.get_float32_matmul_precision() == before
    with pytest.raises(KeyError), tuned(TrainConfig(max_steps=1, device="cpu", precision="bf16")):
        raise KeyError
    assert torch.get_float32_matmul_precision() == before
