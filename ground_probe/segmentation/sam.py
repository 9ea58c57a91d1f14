"""Snap a segmentation to SAM's masks: optional, and always reported apart.

```python
from transformers import SamModel, SamProcessor

name = "facebook/sam-vit-base"
mask = snap(result, image, SamModel.from_pretrained(name), SamProcessor.from_pretrained(name))
```
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from ground_probe import metrics
from ground_probe.images import to_rgb
from ground_probe.segmentation.segment import Mask, Segmentation


def snap(result: Segmentation, image: Image.Image, model: Any, processor: Any) -> Mask:
    """SAM's mask for the box around a segmentation: of its proposals, the one most like it.

    Args:
        result: from `segment`; an empty mask stays empty.
        image: the same image.
        model: a `SamModel`.
        processor: its `SamProcessor`.
    """
    ys, xs = np.nonzero(result.mask)
    if not len(ys):
        return result.mask
    box = [float(edge) for edge in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
    inputs = processor(to_rgb(image), input_boxes=[[box]], return_tensors="pt")
    with torch.no_grad():
        proposed = model(**inputs.to(model.device), multimask_output=True).pred_masks
    sizes = inputs["original_sizes"].cpu(), inputs["reshaped_input_sizes"].cpu()
    masks = processor.post_process_masks(proposed.cpu(), *sizes)[0][0].numpy()
    return max(masks, key=lambda mask: metrics.iou(*metrics.counts(mask, result.mask)))
