"""A logit lens for editors: what would the image be if the denoiser stopped after a block?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ground_probe.capture import Trace, trace
from ground_probe.capture.sites import blocks_of
from ground_probe.editors import Editor, wrapped
from ground_probe.errors import UnsupportedEditorError
from ground_probe.inside.decoding import decode
from ground_probe.inside.running import Patch, require_prediction, same_draws, unguided


@dataclass(frozen=True)
class Lens:
    """What each block's state predicts of the clean latents, through the editor's final layers.

    ```python
    lens = gp.logit_lens(editor, image, "remove the dog")
    lens.image("single_transformer_blocks.4")  # if the editor stopped there
    ```

    Args:
        predictions: by block, as the scheduler holds latents. The last block's is the editor's own.
        trace: of the run, with the editor's own prediction, its layout and its geometry.
    """

    predictions: dict[str, Tensor]
    trace: Trace
    _image: Callable[[Tensor], Image.Image] = field(repr=False)

    def image(self, block: str) -> Image.Image:
        """What the image would be if the denoiser stopped after a block."""
        return self._image(self.predictions[block])

    def distance(self) -> dict[str, float]:
        """By block, how far its prediction is from the editor's own, as a share of that one's norm.

        0 at the last block.
        """
        final = self.trace.prediction[self.trace.steps[0]]
        return {
            block: float((prediction - final).norm() / final.norm())
            for block, prediction in self.predictions.items()
        }

    def change(self, block: str) -> Float[Tensor, "rows cols"]:
        """Where a block's prediction departs from the reference; see `Trace.change`."""
        (step,) = self.trace.steps
        return replace(self.trace, prediction={step: self.predictions[block]}).change(step)


def logit_lens(
    editor: Editor,
    image: Image.Image,
    instruction: str,
    *,
    blocks: str | Sequence[str] = "all",
    step: int = 0,
    seed: int = 0,
    num_steps: int | None = None,
    pipeline_kwargs: Mapping[str, Any] | None = None,
) -> Lens:
    """Decode the state of blocks through the model's own final layers.

    ```python
    lens = gp.logit_lens(editor, image, "make the red circle blue")
    lens.image("transformer_blocks.1")      # if it stopped here
    lens.distance()                         # by block, 0 at the last
    ```

    nostalgebraist 2020 ("interpreting GPT: the logit lens"), for a denoiser: clean latents are
    predicted as x - sigma * final_layers(state of the block), as by `Trace.prediction`, and become
    an image through the pipeline's autoencoder. Between them the pipeline is called as ever, its
    blocks handing on what is asked about without being computed, so that no layer is copied and a
    block costs what the pipeline costs without its blocks.

    Args:
        editor: from `load_editor`; its denoiser must be a transformer.
        step: denoising step, from 0.
        image, instruction, blocks, seed, num_steps, pipeline_kwargs: as of `trace`, unguided.

    Raises:
        UnsupportedEditorError: a UNet, a scheduler that is not of flow matching, or guidance.
    """
    denoiser = editor.denoiser
    if getattr(editor.pipeline, "transformer", None) is None:
        raise UnsupportedEditorError(
            f"{type(denoiser).__name__} is a UNet: its attention blocks lie on several grids and "
            "its final layers read convolutions and skips, so no block's state can stand in for "
            "what they read"
        )
    require_prediction(editor)
    given, every = unguided(editor, pipeline_kwargs), blocks_of(denoiser)
    last = list(every)[-1]
    options: dict[str, Any] = {
        "steps": step, "attention": False, "prediction": True, "seed": seed,
        "num_steps": num_steps, "pipeline_kwargs": given,
    }  # fmt: skip
    outputs: list[Any] = []  # of the denoiser, call by call
    returned: dict[type, Any] = {}  # by a block of each class: the next one only needs its shape
    with ExitStack() as stack:
        stack.enter_context(same_draws(editor, seed))
        stack.enter_context(wrapped(denoiser, "forward", partial(_keeping, outputs.append)))
        for block in every.values():
            keep = partial(returned.__setitem__, type(block))
            stack.enter_context(wrapped(block, "forward", partial(_keeping, keep)))
        whole = trace(editor, image, instruction, blocks=blocks, **options)
    if len(outputs) != step + 1:
        raise UnsupportedEditorError(
            f"{len(outputs)} forwards ran in {step + 1} steps: a lens is of a run without guidance"
        )
    predictions = {}
    for name in whole.blocks:
        states = {(last, *at): kept for (block, *at), kept in whole.hidden.items() if block == name}
        with ExitStack() as stack:
            stack.enter_context(same_draws(editor, seed))
            stack.enter_context(wrapped(denoiser, "forward", partial(_replay, iter(outputs[:-1]))))
            for block in every.values():
                skip = partial(_handing_on, returned[type(block)])
                stack.enter_context(wrapped(block, "forward", skip))
            short = trace(editor, image, instruction, blocks=(), edit=Patch(states), **options)
        predictions[name] = short.prediction[step]
    show = partial(decode, editor, image, instruction, output=outputs[-1], pipeline_kwargs=given)
    return Lens(predictions, whole, show)


def _keeping(keep: Callable[[Any], Any], call: Callable, *args: Any, **kwargs: Any) -> Any:
    output = call(*args, **kwargs)
    keep(output)
    return output


def _replay(before: Iterator[Any], call: Callable, *args: Any, **kwargs: Any) -> Any:
    output = next(before, None)
    return call(*args, **kwargs) if output is None else output


def _handing_on(output: Any, call: Callable, *args: Any, **kwargs: Any) -> Any:
    return output
