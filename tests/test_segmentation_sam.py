from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ground_probe.segmentation.sam import snap
from ground_probe.segmentation.segment import Segmentation


@pytest.fixture(scope="module")
def sam():
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    torch.manual_seed(0)
    side = {
        "vision_config": {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
            "patch_size": 16, "output_channels": 16, "mlp_dim": 16, "global_attn_indexes": [0],
            "window_size": 2, "num_pos_feats": 8,
        },
        "prompt_encoder_config": {
            "hidden_size": 16, "image_size": 64, "patch_size": 16, "image_embedding_size": 4,
            "mask_input_channels": 4,
        },
        "mask_decoder_config": {
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    }  # fmt: skip
    size = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    return SamModel(SamConfig(**side)).eval(), SamProcessor(SamImageProcessor(**size))


def test_masks_have_the_image_s_size_and_the_most_alike_is_taken(sam):
    model, processor = sam
    mask = np.zeros((50, 90), bool)
    mask[10:30, 20:60] = True
    image = Image.effect_noise((90, 50), 80)
    found = snap(Segmentation(mask, mask, mask, "it"), image, model, processor)
    assert found.shape == mask.shape and found.dtype == bool


def test_an_empty_mask_stays_empty(sam):
    mask = np.zeros((50, 90), bool)
    result = Segmentation(mask, mask, mask, "it")
    assert not snap(result, Image.new("RGB", (90, 50)), *sam).any()
