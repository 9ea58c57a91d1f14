"""Probe any model that has tokens: here a vision transformer with random weights."""

import numpy as np
import torch
from transformers import ViTConfig, ViTModel

from ground_probe.geometry import Geometry
from ground_probe.probes import hard_labels, linear_probe_auc

rng = np.random.default_rng(0)
images = rng.normal(size=(60, 3, 64, 64)).astype(np.float32)  # your images here,
masks = np.zeros((60, 64, 64), dtype=bool)  # and the mask of an object in each
for image, mask, (top, left) in zip(images, masks, rng.integers(0, 40, (60, 2)), strict=True):
    mask[top : top + 24, left : left + 24] = True
    image[0, mask] += 0.5

torch.manual_seed(0)
model = ViTModel(ViTConfig(image_size=64, patch_size=8, hidden_size=48, num_attention_heads=4))
with torch.no_grad():
    layers = model.eval()(torch.from_numpy(images), output_hidden_states=True).hidden_states
features = torch.stack(layers)[:, :, 1:]  # (layer, image, token, width), without the class token

labels, keep = hard_labels(Geometry((64, 64), (8, 8)).soft_labels(masks).reshape(60, 64))
groups = np.arange(60)[:, None].repeat(64, axis=1)  # tokens of one image are never separated
for layer, states in enumerate(features):
    auc = linear_probe_auc(states[keep], labels[keep], groups[keep])
    print(f"layer {layer}: AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}], {auc.n} images")
