"""Exact attention maps against a full softmax in float64: kernels, masks, heads, number formats."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ground_probe.capture import kernel
from ground_probe.capture.kernel import Attention, Listening
from ground_probe.errors import GroundProbeError

ROWS, KEYS, HEADS, DIM = 33, 40, 4, 16
LIMIT = {torch.float32: 1e-5, torch.bfloat16: 1e-3, torch.float16: 1e-3}


def call(dtype=torch.float32, mask=None, key_heads=HEADS, batch=2, seed=0, **options) -> Attention:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    masks = {
        None: None,
        "bool": draw(ROWS, KEYS) > -0.5,
        "bool of keys": draw(batch, 1, 1, KEYS) > -0.5,
        "additive": draw(ROWS, KEYS).to(dtype),
        "additive by head": draw(batch, HEADS, ROWS, KEYS).to(dtype),
    }
    return Attention(
        (3 * draw(batch, HEADS, ROWS, DIM)).to(dtype),
        draw(batch, key_heads, KEYS, DIM).to(dtype),
        draw(batch, key_heads, KEYS, DIM).to(dtype),
        masks[mask],
        enable_gqa=key_heads != HEADS,
        **options,
    )


def softmax(call: Attention):
    key = call.key.double().repeat_interleave(HEADS // call.key.shape[1], dim=1)
    scale = DIM**-0.5 if call.scale is None else call.scale
    logits = call.query.double() @ key.transpose(-1, -2) * scale
    mask = call.attn_mask
    if call.is_causal:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        logits = (
            logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        )
    return logits.softmax(-1).nan_to_num(0)


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("key_heads", [HEADS, 2, 1])
@pytest.mark.parametrize("mask", [None, "bool", "bool of keys", "additive", "additive by head"])
@pytest.mark.parametrize("portable", [False, True])
def test_chosen_probabilities_are_exact(monkeypatch, dtype, key_heads, mask, portable):
    if portable:
        monkeypatch.setattr(kernel, "_KERNELS", {})
    made = call(dtype, mask, key_heads)
    output, lse = made.output_and_lse()
    assert torch.equal(output, F.scaled_dot_product_attention(**vars(made)))
    keys, expected = torch.tensor([5, 0, 39]), softmax(made)
    maps = made.to_keys(lse, slice(3, 30), keys)
    assert maps.dtype == torch.float32
    assert (maps - expected[:, :, 3:30][..., keys]).abs().max() < LIMIT[dtype]
    rows = made.from_rows(torch.tensor([7, 2]))
    assert (rows - expected[:, :, [7, 2]]).abs().max() < LIMIT[dtype]
    assert torch.equal(made.from_rows(torch.tensor([7, 2]), slice(1, 2)), rows[:, 1:2])
    one = made.one(1)
    assert torch.equal(one.to_keys(lse[1:], slice(3, 30), keys), maps[1:])


@pytest.mark.parametrize("options", [{"is_causal": True}, {"scale": 0.5}])
def test_causal_and_scaled_calls_are_exact(options):
    made = call(**options)
    _, lse = made.output_and_lse()
    maps = made.to_keys(lse, slice(None), torch.arange(KEYS))
    assert (maps - softmax(made)).abs().max() < 1e-5


def test_a_row_that_may_see_nothing_gives_nothing():
    made = call()
    mask = torch.ones(ROWS, KEYS, dtype=torch.bool)
    mask[4] = False
    made = Attention(made.query, made.key, made.value, mask)
    _, lse = made.output_and_lse()
    maps = made.to_keys(lse, slice(None), torch.arange(KEYS))
    assert maps[:, :, 4].abs().max() == 0 and maps.isfinite().all()


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 70), keys=st.integers(1, 70), dim=st.sampled_from([1, 5, 8, 64]),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_any_shape_sums_to_one_over_all_keys(rows, keys, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(1, 2, rows, dim, generator=generator)
    key = torch.randn(1, 2, keys, dim, generator=generator)
    made = Attention(query, key, key)
    output, lse = made.output_and_lse()
    maps = made.to_keys(lse, slice(None), torch.arange(keys))
    torch.testing.assert_close(maps.sum(-1), torch.ones(1, 2, rows), atol=1e-5, rtol=0)
    torch.testing.assert_close(maps @ key, output, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mask", [None, "bool", "additive by head"])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 3.0])
def test_reweighted_keys_are_renormalized_in_one_row_only(mask, weight):
    made, keys = call(mask=mask), torch.tensor([3, 9])
    changed = made.reweighted(keys, weight, row=1)
    expected = softmax(made)
    expected[1][..., keys] *= weight
    expected = expected / expected.sum(-1, keepdim=True)
    assert (softmax(changed) - expected).abs().max() < 1e-6
    output, _ = changed.output_and_lse()
    assert (output - expected @ made.value.double()).abs().max() < 1e-5


def test_many_rows_are_taken_in_parts(monkeypatch):
    made = call()
    _, lse = made.output_and_lse()
    whole = made.to_keys(lse, slice(None), torch.arange(3))
    monkeypatch.setattr(kernel, "_ROWS", 7)
    parts = made.to_keys(lse, slice(None), torch.arange(3))
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(kernel._portable_lse(made), lse)


def test_a_kernel_with_a_wrong_log_sum_exp_is_refused(monkeypatch):
    def wrong(call, mask):
        output, lse = kernel._flash_cpu(call, mask)
        return output, lse + 0.01

    monkeypatch.setattr(kernel, "_KERNELS", {("cpu", 1): ("wrong_kernel", wrong)})
    with pytest.raises(GroundProbeError, match=r"wrong_kernel on cpu .* off by 1\.0e-02"):
        call().output_and_lse()


def test_a_kernel_is_checked_once_for_each_device_dtype_and_kind_of_mask(monkeypatch):
    checked = []
    monkeypatch.setattr(kernel, "_checked", set())
    monkeypatch.setattr(kernel, "_check", lambda call, name, lse: checked.append(name))
    for mask in (None, "bool", "bool", None):
        call(mask=mask).output_and_lse()
    assert checked == ["flash_attention_for_cpu"] * 2


def test_listening_hears_only_attention_and_leaves_the_rest_alone():
    heard = []
    made = call()
    with Listening(lambda one: heard.append(one) or one.output()):
        F.relu(made.query)
        output = F.scaled_dot_product_attention(made.query, made.key, value=made.value)
    assert len(heard) == 1 and torch.equal(output, made.output())
