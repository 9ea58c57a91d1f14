"""Representation analyses on what a capture gives: what is alike, what is read out, what moves it.

`similarity` compares states (CKA, RSA); `lens` decodes a block's state through the editor's own
final layers; `patching` lets one instruction's states stand in another's run; `steering` adds or
removes a direction; `rollout` follows attention through the blocks. Each is a short function of an
editor or of arrays, with its formula and its source.
"""

from ground_probe.inside.decoding import decode
from ground_probe.inside.lens import Lens, logit_lens
from ground_probe.inside.patching import INPUT, activation_patching
from ground_probe.inside.rollout import attention_rollout
from ground_probe.inside.similarity import linear_cka, rsa, similarity_table
from ground_probe.inside.steering import Direction, Steer, dose_curve, probe_direction

__all__ = [
    "INPUT",
    "Direction",
    "Lens",
    "Steer",
    "activation_patching",
    "attention_rollout",
    "decode",
    "dose_curve",
    "linear_cka",
    "logit_lens",
    "probe_direction",
    "rsa",
    "similarity_table",
]
