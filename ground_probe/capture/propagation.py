"""Maps to the phrase, carried on by attention among image tokens: never an S x S matrix.

softmax(Q K^T) over the keys of one stream, times a head's map, is one more call of the fused kernel
with the map as its values, so that rows are renormalized within the stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ground_probe.capture.kernel import Attention
from ground_probe.capture.layout import Layout
from ground_probe.capture.options import Options

_UNET = ("down_blocks.", "mid_block.", "up_blocks.")
Maps = Float[Tensor, "heads tokens phrase"]


class Carrier:
    """Carries the maps of one run on.

    Text and image in one sequence: each map by its own head, within each stream. Image tokens that
    meet the text in cross-attention: by the same head of the block's self-attention, which runs
    before. A UNet has maps on several grids: once all are there, the mean of each block's heads is
    brought to the grid of the finest blocks and carried on by the mean of their self-attention.

    Source of the last: DiffSegmenter (arXiv 2309.02773) and iSeg (arXiv 2409.03209).
    """

    def __init__(self, blocks: Iterable[str], options: Options) -> None:
        self._blocks, self._rounds = tuple(blocks), options.propagate
        self._streams = [stream for stream in options.streams or () if stream != "text"]
        self._unet = any(name.startswith(_UNET) for name in self._blocks)
        self._held: dict[str, Attention] = {}

    def hold(self, block: str, call: Attention) -> None:
        """Keep a self-attention, its values aside, until the maps that it carries are there."""
        rows = call.query.shape[2]
        finest = max((held.query.shape[2] for held in self._held.values()), default=0)
        if self._unet and rows < finest:
            return
        if self._unet and rows > finest:
            self._held.clear()
        self._held[block] = replace(call, value=call.key)

    def by_own_heads(
        self, block: str, call: Attention, rows: slice, layout: Layout, maps: Maps
    ) -> Iterator[tuple[str, Maps]]:
        """(stream, its maps) of a block; none yet in a UNet.

        `rows` are those of image tokens in the call that has the phrase's keys.
        """
        if layout.joint:
            for stream in self._streams or layout.grids:
                at = layout.within_image(stream)
                among = call.among(slice(rows.start + at.start, rows.start + at.stop))
                yield stream, self._carried(among, maps[:, at])
        elif not self._unet and block in self._held:
            yield "noise", self._carried(self._held.pop(block), maps)

    def by_finest(
        self, block: str, layout: Layout, maps: Mapping[str, Maps]
    ) -> Iterator[tuple[str, Maps]]:
        """(block, its map) of every block of a UNet, once the last has run: `block` just did."""
        if not self._unet or block != self._blocks[-1] or not self._held:
            return
        if not all(name in maps for name in self._blocks):
            return  # some block's attention was not heard, which is told when the run ends
        held, self._held = list(self._held.values()), {}
        grid = layout.grid_of(held[0].query.shape[2])
        means = [_on_grid(maps[name].mean(0), layout, grid) for name in self._blocks]
        carry = torch.cat(means, dim=-1).to(held[0].query.device)
        for _ in range(self._rounds):
            by_head = (h.carry(carry.expand(1, h.query.shape[1], -1, -1))[0] for h in held)
            carry = sum(maps.mean(0) for maps in by_head) / len(held)
        widths = [mean.shape[-1] for mean in means]
        for name, part in zip(self._blocks, carry.split(widths, dim=-1), strict=True):
            yield name, part[None]

    def _carried(self, attention: Attention, maps: Maps) -> Maps:
        """Maps of a row of a batch, after its tokens' attention to one another, head by head."""
        for _ in range(self._rounds):
            maps = attention.carry(maps[None])[0]
        return maps


def _on_grid(
    maps: Float[Tensor, "tokens phrase"], layout: Layout, grid: tuple[int, int]
) -> Float[Tensor, "finer phrase"]:
    """A UNet level's maps on the grid of another level, bilinearly."""
    rows_cols = layout.grid_of(len(maps))
    if rows_cols == grid:
        return maps
    channels_first = maps.T.reshape(1, -1, *rows_cols)
    return F.interpolate(channels_first, grid, mode="bilinear")[0].flatten(1).T
