"""Exact attention to chosen tokens at the price of the fused kernel.

A fused kernel computes the log-sum-exp L_i of every row on its way, so that the probability of a
chosen key is one small product away: P_ij = exp(q_i . k_j * scale + mask_ij - L_i).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ground_probe.errors import GroundProbeError

_ROWS = 1024  # query rows at a time: bounds the memory of a float32 copy or of a product
_checked: set[tuple] = set()


@dataclass(frozen=True)
class Attention:
    """One call of `F.scaled_dot_product_attention`, by the names of its arguments."""

    query: Float[Tensor, "batch heads rows dim"]
    key: Float[Tensor, "batch key_heads keys dim"]
    value: Float[Tensor, "batch key_heads keys dim"]
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def output(self) -> Float[Tensor, "batch heads rows dim"]:
        """What PyTorch itself returns for this call."""
        return F.scaled_dot_product_attention(**vars(self))

    def output_and_lse(
        self,
    ) -> tuple[Float[Tensor, "batch heads rows dim"], Float[Tensor, "batch heads rows"]]:
        """The output, bit for bit as PyTorch returns it, and every row's log-sum-exp.

        The kernel that PyTorch would choose is asked for both. Its log-sum-exp is held against
        four rows in float32 on the first use of each kernel, device and dtype.

        Raises:
            GroundProbeError: the kernel's log-sum-exp is not that of its rows.
        """
        choice = torch._fused_sdp_choice(**vars(self))
        name, kernel = _KERNELS.get((self.query.device.type, choice), ("", None))
        if kernel is None or not self._direct():
            return self.output(), _portable_lse(self)
        output, lse = kernel(self, _additive(self.attn_mask, self.query.dtype))
        rows = self.query.shape[2]
        lse = lse.reshape(*lse.shape[:2], -1)[..., :rows]  # some kernels pad, one adds a dimension
        # A row that may see nothing has no log-sum-exp; any finite one gives it probability 0.
        lse = torch.where(lse.isfinite(), lse, 0.0)
        key = (name, self.query.device, self.query.dtype, self.attn_mask is None, self.is_causal)
        if key not in _checked:
            _check(self, name, lse)
            _checked.add(key)
        return output, lse

    def to_keys(
        self,
        lse: Float[Tensor, "batch heads rows"],
        rows: slice,
        keys: Int[Tensor, " chosen"],
    ) -> Float[Tensor, "batch heads chosen_rows chosen"]:
        """Exact probabilities that the given query rows give to chosen keys, in float32."""
        chosen = self._repeated(self.key[:, :, keys]).float().transpose(-1, -2)
        parts = []
        for part in _parts(range(self.query.shape[2])[rows]):
            logits = _product(self.query[:, :, part], chosen).mul_(self._scale())
            self._add_bias(logits, slice(None), part, keys)
            parts.append(logits.sub_(lse[:, :, part, None]).exp_())
        return torch.cat(parts, dim=2)

    def from_rows(
        self, rows: slice | Int[Tensor, " chosen"], heads: slice = slice(None)
    ) -> Float[Tensor, "batch some_heads chosen keys"]:
        """The whole softmax of chosen query rows, in float32: exact without a log-sum-exp."""
        logits = self.logits(rows, heads)
        blind = logits.isneginf().all(-1, keepdim=True)  # a row that may see nothing
        return torch.softmax(logits, dim=-1).masked_fill_(blind, 0.0)

    def logits(
        self, rows: slice | Int[Tensor, " chosen"], heads: slice = slice(None)
    ) -> Float[Tensor, "batch some_heads chosen keys"]:
        """What chosen query rows' softmax is taken of, in float32."""
        keys = self._repeated(self.key)[:, heads].float().transpose(-1, -2)
        logits = _product(self.query[:, heads, rows], keys).mul_(self._scale())
        self._add_bias(logits, heads, rows, slice(None))
        return logits

    def among(self, rows: slice) -> Attention:
        """The same call for the queries and keys of some rows alone: softmax over those keys."""
        mask = self.attn_mask
        if mask is not None:
            mask = mask[..., rows, :] if mask.shape[-2] > 1 else mask
            mask = mask[..., rows] if mask.shape[-1] > 1 else mask
        query, key, value = (part[:, :, rows] for part in (self.query, self.key, self.value))
        return replace(self, query=query, key=key, value=value, attn_mask=mask)

    def carry(
        self, maps: Float[Tensor, "batch heads keys columns"]
    ) -> Float[Tensor, "batch heads rows columns"]:
        """softmax(Q K^T) times maps, in float32: the kernel's own output for maps as the values.

        Maps are filled up to the head's width, for narrower values leave the fused kernels, and
        each column is scaled to 1 at its largest, for probabilities underflow in half precision.
        """
        width, columns = self.query.shape[-1], maps.shape[-1]
        largest = maps.amax(2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        values = F.pad(maps / largest, (0, -columns % width)).to(self.query.dtype)
        call = replace(self, key=self._repeated(self.key), enable_gqa=False)
        parts = [replace(call, value=part).output() for part in values.split(width, dim=-1)]
        return torch.cat(parts, dim=-1)[..., :columns].float() * largest

    def one(self, row: int) -> Attention:
        """One row of the batch."""
        at, mask = slice(row, row + 1), self.attn_mask
        if mask is not None and mask.ndim == 4 and len(mask) > 1:
            mask = mask[at]
        query, key, value = (part[at] for part in (self.query, self.key, self.value))
        return replace(self, query=query, key=key, value=value, attn_mask=mask)

    def reweighted(self, keys: Int[Tensor, " chosen"], weight: float, row: int) -> Attention:
        """The same call with a row's probabilities of chosen keys times a weight, renormalized."""
        bias = self.query.new_zeros(len(self.query), 1, 1, self.key.shape[2])
        bias[row, ..., keys] = torch.tensor(weight).log().to(bias)
        mask = _additive(self.attn_mask, self.query.dtype)
        bias = bias.expand(-1, -1, self.query.shape[2], -1)
        return replace(self, attn_mask=bias if mask is None else mask + bias)

    def _direct(self) -> bool:
        """Whether a kernel takes this call as it is, where PyTorch first pads or repeats."""
        on_gpu = self.query.device.type == "cuda"
        return not self.dropout_p and not (
            on_gpu and (self.query.shape[-1] % 8 or self._groups() > 1)
        )

    def _groups(self) -> int:
        return self.query.shape[1] // self.key.shape[1]

    def _repeated(self, heads: Tensor) -> Tensor:
        return heads if self._groups() == 1 else heads.repeat_interleave(self._groups(), dim=1)

    def _scale(self) -> float:
        return self.query.shape[-1] ** -0.5 if self.scale is None else self.scale

    def _add_bias(self, logits: Tensor, *at: Any) -> None:
        """Add in place what the mask and causality say of chosen heads, rows and keys."""
        if self.attn_mask is not None:
            mask = self.attn_mask[(None,) * (4 - self.attn_mask.ndim)]
            for dim, chosen in enumerate(at, start=1):
                mask = mask[(*[slice(None)] * dim, chosen)] if mask.shape[dim] > 1 else mask
            logits.add_(_additive(mask, self.query.dtype))
        if self.is_causal:
            _, rows, keys = at
            places = torch.arange(max(self.query.shape[2], self.key.shape[2]), device=logits.device)
            rows_at, keys_at = places[: self.query.shape[2]], places[: self.key.shape[2]]
            logits.masked_fill_(keys_at[keys] > rows_at[rows, None], float("-inf"))


class Listening(TorchFunctionMode):
    """Hand every scaled-dot-product attention to a function that returns the output."""

    def __init__(self, hear: Callable[[Attention], Tensor]) -> None:
        super().__init__()
        self.hear = hear

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.hear(Attention(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))


def _portable_lse(call: Attention) -> Tensor:
    parts = [
        torch.logsumexp(call.logits(part), dim=-1) for part in _parts(range(call.query.shape[2]))
    ]
    lse = torch.cat(parts, dim=2)
    return torch.where(lse.isfinite(), lse, 0.0)


def _check(call: Attention, name: str, lse: Tensor) -> None:
    query = call.query
    rows = torch.linspace(0, query.shape[2] - 1, 4, device=query.device).long()
    expected = torch.logsumexp(call.logits(rows), dim=-1)
    seen = expected.isfinite()
    if not seen.any():
        return
    error = (lse[:, :, rows] - expected)[seen].abs().max().item()
    limit = 1e-5 if query.dtype == torch.float32 else 1e-3
    if not error <= limit * max(1.0, expected[seen].abs().max().item()):
        raise GroundProbeError(
            f"{name} on {query.device} in {query.dtype} returned a log-sum-exp that is off by "
            f"{error:.1e} from a float32 softmax of 4 rows: its maps would be wrong. Run under "
            "`torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` and report the kernel"
        )


def _parts(rows: range) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, _ROWS):
        yield slice(start, min(start + _ROWS, rows.stop))


def _product(query: Tensor, keys: Tensor) -> Tensor:
    """A float32 product with TF32 off: a rounded one is off by 1-4 % in the probabilities."""
    if query.device.type != "cuda":
        return query.float() @ keys
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return query.float() @ keys
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _flash_cpu(call: Attention, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        call.query, call.key, call.value, 0.0, call.is_causal, attn_mask=mask, scale=call.scale
    )


def _flash_cuda(call: Attention, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention(
        call.query, call.key, call.value, 0.0, call.is_causal, False, scale=call.scale
    )[:2]


def _efficient_cuda(call: Attention, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)].expand(*call.query.shape[:3], call.key.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        call.query, call.key, call.value, mask, True, 0.0, call.is_causal, scale=call.scale
    )[:2]


def _cudnn_cuda(call: Attention, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    # cuDNN is wrong on inputs that are not contiguous.
    query, key, value = (x.contiguous() for x in (call.query, call.key, call.value))
    return torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, mask, True, 0.0, call.is_causal, False, scale=call.scale
    )[:2]


# By device and by the number of torch's `SDPBackend`; what is not here takes the portable way.
_KERNELS: dict[tuple[str, int], tuple[str, Callable]] = {
    ("cpu", 1): ("flash_attention_for_cpu", _flash_cpu),
    ("cuda", 1): ("flash_attention", _flash_cuda),
    ("cuda", 2): ("efficient_attention", _efficient_cuda),
    ("cuda", 3): ("cudnn_attention", _cudnn_cuda),
}
