"""Is a family's entry in the registry true? Held against a plain run, from the outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ground_probe.capture import Trace, capture, trace
from ground_probe.capture.kernel import Attention
from ground_probe.capture.sites import attentions_of, blocks_of
from ground_probe.editors import Editor, load_editor
from ground_probe.testing.builders import INSTRUCTION

SELF = ("attn1", "self_attention")


class Witness(TorchFunctionMode):
    """The first call of every block and attention module in a run, by hooks of its own.

    Attributes:
        states: what each block returned.
        outputs: what each attention module returned, by (block, module).
        calls: its attention, by (block, module).
    """

    def __init__(self, denoiser: torch.nn.Module) -> None:
        super().__init__()
        self.states: dict[str, Any] = {}
        self.outputs: dict[tuple[str, str], Any] = {}
        self.calls: dict[tuple[str, str], Attention] = {}
        self._at: tuple[str, str] | None = None
        self._handles = []
        for name, block in blocks_of(denoiser).items():
            self._handles.append(block.register_forward_hook(self._keep(self.states, name)))
            for inside, module in attentions_of(block).items():
                at = name, inside
                self._handles += [
                    module.register_forward_pre_hook(lambda *_, at=at: setattr(self, "_at", at)),
                    module.register_forward_hook(self._keep(self.outputs, at)),
                ]

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*error)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention and self._at:
            self.calls.setdefault(self._at, Attention(*args, **(kwargs or {})))
            self._at = None
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _keep(kept: dict, key: Any) -> Any:
        return lambda module, args, output: kept.setdefault(key, output)


@dataclass(frozen=True)
class _Checked:
    """What is run, plainly and under a witness."""

    editor: Editor
    image: Image.Image
    instruction: str
    pipeline_kwargs: Mapping[str, Any]

    def run(self) -> Tensor:
        """The latents that a plain run of two steps ends with."""
        given = self.editor.arguments(self.image, self.instruction) | {**self.pipeline_kwargs}
        torch.manual_seed(0)  # some pipelines draw from the global generator
        with torch.no_grad():
            return self.editor.pipeline(
                **given, num_inference_steps=2, output_type="latent", return_dict=False
            )[0]

    def witness(self) -> tuple[Witness, int]:
        """What a plain run does, and which row of its batch is the conditional one."""
        with Witness(self.editor.denoiser) as witness:
            self.run()
        batch = len(next(iter(witness.calls.values())).query)
        rows = self.editor.family.rows
        return witness, rows.index("cond") if batch == len(rows) > 1 else 0


def check_family(
    pipeline: Any,
    instruction: str = INSTRUCTION,
    phrase: str = "circle",
    image: Image.Image | None = None,
    pipeline_kwargs: Mapping[str, Any] | None = None,
    limit: float = 1e-5,
) -> None:
    """Hold a pipeline's `Family` against plain runs of it.

    ```python
    check_family(tiny_instance_of_my_pipeline())
    ```

    Args:
        pipeline: an instance, tiny and random for choice.
        instruction, phrase, image: what it is run on.
        pipeline_kwargs: further arguments of its call.
        limit: of the absolute error of a probability; 1e-3 in half precision.

    Raises:
        AssertionError: says which part of the entry is not true.
    """
    editor, given = load_editor(pipeline), dict(pipeline_kwargs or {})
    noise = np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8)
    image = image or Image.fromarray(noise)
    checked = _Checked(editor, image, instruction, given)
    bare = checked.run()
    torch.manual_seed(0)
    traced = trace(
        editor, image, instruction, phrase, num_steps=2, streams=editor.family.streams,
        affinity=[0, 7], attention_output=True, pipeline_kwargs=given,
    )  # fmt: skip
    witness, row = checked.witness()
    _check_states(traced, witness, row)
    _check_attention(traced, witness, row, limit)
    for stream in ("text", "image") if traced.layout.joint else ("text",):
        _check_order(checked, traced, stream, row)
    with capture(
        editor.pipeline, steps=(1,), streams=(), attention_to=(instruction, phrase), stop=False,
    ) as captured:  # fmt: skip
        output = checked.run()
    assert captured.attention, "no attention was captured at the second step"
    assert torch.equal(output, bare), "a capture changes the output"
    assert torch.equal(checked.run(), bare), "a capture leaves something behind"


def softmax(call: Attention, row: int) -> Tensor:
    """A row's whole attention in float64."""
    query, key = call.query[row].double(), call.key[row].double()
    key = key.repeat_interleave(len(query) // len(key), dim=0)
    logits = query @ key.transpose(-1, -2) * (call.scale or query.shape[-1] ** -0.5)
    mask = call.attn_mask
    if mask is not None:
        mask = mask[row] if mask.ndim == 4 else mask
        excluded = mask.dtype == torch.bool
        logits = logits.masked_fill(~mask, -torch.inf) if excluded else logits + mask
    return logits.softmax(-1)


def _check_states(traced: Trace, witness: Witness, row: int) -> None:
    first = {block: output for (block, _), output in reversed(witness.outputs.items())}
    for kind, returned in (("hidden", witness.states), ("attention_output", first)):
        captured = getattr(traced, kind)
        assert {site[0] for site in captured} == returned.keys(), f"{kind} lacks blocks"
        for block, output in returned.items():
            for stream, states in _streams(traced, output, kind == "attention_output"):
                assert torch.equal(captured[block, 0, stream], states[row].float()), (
                    f"{kind} at {(block, 0, stream)} is not what the module returned: look at "
                    "`text_first`, `streams` and `rows`"
                )


def _streams(traced: Trace, output: Any, image_first: bool) -> Iterator[tuple[str, Tensor]]:
    layout = traced.layout
    parts = output[:2] if isinstance(output, tuple) else (output,)
    if not layout.joint:
        yield "noise", parts[0]
        return
    if len(parts) == 2:
        swapped = image_first or not layout.text_first
        image, text = parts if swapped else parts[::-1]
    else:
        text_at, image_at = layout.within_sequence()
        text, image = parts[0][:, text_at], parts[0][:, image_at]
    yield "text", text
    for stream in layout.grids:
        yield stream, image[:, layout.within_image(stream)]


def _check_attention(traced: Trace, witness: Witness, row: int, limit: float) -> None:
    layout = traced.layout
    text_at, image_at = slice(0, None), slice(None)
    if layout.joint:
        text_at, image_at = layout.within_sequence()
    keys = [text_at.start + key for key in traced.phrase_keys]
    pairs: list[tuple[str, str, Tensor, Tensor]] = []
    for (block, inside), call in witness.calls.items():
        full = softmax(call, row)
        if layout.joint or inside not in SELF:
            maps = full[:, image_at][..., keys]
            pairs.append((block, "attention", traced.attention[block, 0], maps))
        if layout.joint:
            maps = full[:, keys][..., image_at]
            pairs.append((block, "attention_from_text", traced.attention_from_text[block, 0], maps))
        if layout.joint or inside in SELF:
            maps = full[:, image_at][:, [0, 7]][..., image_at]
            pairs.append((block, "affinity", traced.affinity[block, 0], maps))
    assert len(traced.attention) == len(traced.blocks), "a block's attention is missing"
    for block, kind, got, expected in pairs:
        assert got.shape == expected.shape, f"{kind} of {block}: {got.shape}, {expected.shape}"
        error = float((got.double() - expected).abs().max())
        assert error <= limit, f"{kind} of {block} is off by {error:.1e} from a softmax in float64"


def _check_order(checked: _Checked, traced: Trace, stream: str, row: int) -> None:
    """Move one token of a stream and see which key of the first attention to text moves."""
    name = {"text": "encoder_hidden_states", "image": "hidden_states"}[stream]
    token = traced.phrase_keys[0] if stream == "text" else traced.layout.image - 1

    def keys(by: int) -> Tensor:
        def move(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            given = kwargs[name].clone()
            if given.ndim == 6:  # items, channels, frames, rows, columns: the first item's corner
                given[0, 0, ..., -1, -1] += by
            else:
                given[row, token] += by
            return args, kwargs | {name: given}

        denoiser = checked.editor.denoiser
        handle = denoiser.register_forward_pre_hook(move, with_kwargs=True)
        witness, _ = checked.witness()
        handle.remove()
        return next(c.key[row] for (_, inside), c in witness.calls.items() if inside not in SELF)

    change = (keys(1) - keys(0)).abs().sum((0, -1))
    text, image = slice(0, None), slice(0, None)
    if traced.layout.joint:
        text, image = traced.layout.within_sequence()
    expected = token + (text if stream == "text" else image).start
    # Text that a model mixes before it meets the image moves other keys too, though less.
    assert int(change.argmax()) == expected, (
        f"moving {stream} token {token} moves key {int(change.argmax())} most, not {expected}: "
        "look at `text_first`"
    )
