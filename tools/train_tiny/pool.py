"""Latents of what was drawn so far, from which training draws again and again."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable

import torch
from diffusers import AutoencoderKL, FluxKontextPipeline
from jaxtyping import Float, Int, UInt8
from torch import Tensor

Chunk = tuple[Tensor, ...]
_CHUNKS_AT_ONCE = 32


def pixels(images: UInt8[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """Bytes to the autoencoder's range, -1 to 1."""
    return images.float() / 127.5 - 1


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b tokens dim"]:
    """Images to packed latents, as the pipeline does it."""
    latents = (vae.encode(images).latent_dist.mode() - vae.config.shift_factor) * (
        vae.config.scaling_factor
    )
    return FluxKontextPipeline._pack_latents(latents, *latents.shape)


class LatentPool:
    """Scenes and their edits on the device; the oldest make room for new ones.

    Drawing scenes takes longer than learning from them, so each is learned from several times.
    """

    def __init__(self, vae: AutoencoderKL, capacity: int, device: str) -> None:
        self.vae, self.capacity, self.device = vae, capacity, device
        self.parts: list[Tensor] = []
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, chunks: list[Chunk]) -> None:
        """Encode and keep the scenes of some chunks."""
        for first in range(0, len(chunks), _CHUNKS_AT_ONCE):
            few = chunks[first : first + _CHUNKS_AT_ONCE]
            before, after, ids = (
                torch.cat(parts).to(self.device) for parts in zip(*few, strict=True)
            )
            reference = encode(self.vae, pixels(before))
            edited = encode(self.vae, pixels(after.flatten(0, 1))).unflatten(0, after.shape[:2])
            new = [reference.half(), edited.half(), ids]
            if not self.parts:
                self.parts = [part.new_empty(self.capacity, *part.shape[1:]) for part in new]
            at = torch.arange(self.added, self.added + len(ids), device=self.device) % self.capacity
            for kept, part in zip(self.parts, new, strict=True):
                kept[at] = part
            self.added += len(ids)

    def sample(self, scenes: int, generator: torch.Generator) -> Int[Tensor, " scenes"]:
        """The places of scenes chosen at random."""
        return torch.randint(len(self), (scenes,), generator=generator)

    def at(
        self, places: Int[Tensor, " scenes"]
    ) -> tuple[
        Float[Tensor, "scenes tokens dim"],
        Float[Tensor, "scenes edits tokens dim"],
        Int[Tensor, "scenes edits text"],
    ]:
        """Latents before and after, and the instructions, of the scenes at some places."""
        reference, edited, ids = (part[places] for part in self.parts)
        return reference.float(), edited.float(), ids


class Ahead:
    """Chunks made by a thread while training goes on; at most so many wait."""

    def __init__(self, chunks: Iterable[Chunk], most: int) -> None:
        self._ready: queue.Queue[Chunk | Exception] = queue.Queue(most)
        threading.Thread(target=self._fill, args=(chunks,), daemon=True).start()

    def _fill(self, chunks: Iterable[Chunk]) -> None:
        try:
            for chunk in chunks:  # copied, for what processes share is little
                self._ready.put(tuple(part.clone() for part in chunk))
        except Exception as error:
            self._ready.put(error)

    def take(self, at_least: int = 0) -> list[Chunk]:
        """The chunks that are ready, and those that have to be waited for."""
        taken: list[Chunk] = []
        for _ in range(max(at_least, self._ready.qsize())):
            chunk = self._ready.get()
            if isinstance(chunk, Exception):
                raise chunk
            taken.append(chunk)
        return taken
