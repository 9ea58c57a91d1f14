"""Hidden states and attention outputs, taken where modules return them; edits, made there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from ground_probe.capture.clock import Clock
from ground_probe.capture.edits import Edits
from ground_probe.capture.options import Options
from ground_probe.capture.record import Record
from ground_probe.capture.sites import Site


class Blocks:
    """The hooks on blocks.

    1. When a block returns, its edits are made, then the states of its streams are kept.
    2. When one of its attention modules returns, what it returns is kept, where that is asked for.
    3. Then `done` is told that the block has run, and may end the run.
    """

    def __init__(
        self,
        chosen: Mapping[str, frozenset[str]],
        options: Options,
        edits: Edits,
        clock: Clock,
        record: Record,
        done: Callable[[str], None],
    ) -> None:
        self._chosen, self._options, self._edits = chosen, options, edits
        self._clock, self._record, self._done = clock, record, done

    def listen(self, name: str, block: nn.Module) -> Iterator[Any]:
        """Register the hooks of a block, and yield their handles."""
        yield block.register_forward_hook(partial(self._returned, name))
        if self._options.attention_output:
            for inside in sorted(self._chosen.get(name, ())):
                module = block.get_submodule(inside)
                yield module.register_forward_hook(partial(self._attended, name))

    def _returned(self, name: str, block: nn.Module, args: tuple, output: Any) -> Any:
        edited = self._edits.of_block(name, output)
        streams = self._clock.layout.split(output if edited is None else edited)
        self._keep("hidden", name, streams)
        self._done(name)
        return edited

    def _attended(self, name: str, module: nn.Module, args: tuple, output: Any) -> None:
        self._keep("attention_output", name, self._clock.layout.split_attention(output))

    def _keep(self, kind: str, name: str, streams: Mapping[str, Tensor]) -> None:
        for stream, states in streams.items():
            for row, role in enumerate(self._clock.roles):
                key = Site(name, self._clock.step, stream, role).key
                if self._record.awaits(kind, key):
                    graph = self._options.gradients
                    kept = states[row] if graph else states[row].detach()
                    self._record.put(kind, key, kept, self._options.reduce, graph)
