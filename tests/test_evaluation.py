"""The real-image path: 38 human sentences through three families of tiny random editors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ground_probe import Recipe, load_editor, segment, testing
from ground_probe.datasets import RefExample
from ground_probe.errors import UnknownWordsWarning
from ground_probe.evaluation import evaluate
from ground_probe.io import seed_of

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "refer-sample"
pytestmark = [
    pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"{SAMPLE} is not there"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
IMAGE = ("noise", "reference")


class ReferSample(Sequence):
    """Every sentence of the sample, as a split."""

    dataset, split, revision = "refer-sample", "all", "1"

    def __init__(self):
        referents = json.loads((SAMPLE / "samples.json").read_text())
        self.entries = [(each, text) for each in referents for text in each["sentences"]]
        self.keys = tuple(f"{e['sample_id']}/{n}" for n, (e, _) in enumerate(self.entries))
        self.image_ids = tuple(each["image"] for each, _ in self.entries)
        self.expressions = tuple(text for _, text in self.entries)

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, index):
        each, text = self.entries[index]
        image = Image.open(SAMPLE / each["image"]).convert("RGB")
        mask = np.asarray(Image.open(SAMPLE / each["mask"]).convert("L")) > 127
        return RefExample(self.keys[index], image, text, mask, each["image"])


def stretched():
    return testing.kontext()


def cropped():
    """FLUX.2 reads its text encoder at layers 9, 18 and 27: a narrow one of full depth."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    pipeline = testing.flux2()
    narrow = pipeline.text_encoder.config.to_dict() | {"num_hidden_layers": 28}
    del narrow["layer_types"]
    pipeline.text_encoder = Qwen3ForCausalLM(Qwen3Config(**narrow)).eval()
    return pipeline


def unet():
    """InstructPix2Pix with room for as many tokens as the real one: the sentences are long."""
    pipeline = testing.instruct_pix2pix()
    pipeline.tokenizer = testing.word_tokenizer(77)
    pipeline.text_encoder = testing.clip_text(len(pipeline.tokenizer), max_length=77).eval()
    return pipeline


@pytest.mark.parametrize(
    ("build", "streams"),
    [
        (stretched, IMAGE),
        (unet, ("noise",)),
        pytest.param(cropped, IMAGE, marks=pytest.mark.long),  # 1,000 tokens an image
    ],
)
def test_every_human_sentence_is_evaluated(tmp_path, build, streams):
    editor = load_editor(build())
    recipe = Recipe(prior_streams=streams, feature_streams=streams)
    methods = ("full", "whole_image", "ceiling")
    encoded = []
    editor.pipeline.vae.encoder.register_forward_hook(lambda *call: encoded.append(call))
    result = evaluate(editor, ReferSample(), tmp_path / "run", recipe, methods=methods)
    assert len(encoded) == len(set(ReferSample().image_ids)), "its sentences share an image"
    assert str(result.counts) == "expected 114 / ok 114 / error 0 / duplicates dropped 0"
    full = result.rows.query("method == 'full'")
    assert full["gold_px"].tolist() == [example.mask.sum() for example in ReferSample()]
    for example, pred_px in zip(list(ReferSample())[:4], full["pred_px"], strict=False):
        seed = seed_of(example.key)
        alone = segment(editor, example.image, example.expression, recipe, seed)
        assert alone.mask.sum() == pred_px, "sharing changes nothing"
    miou = result.summary.query("metric == 'miou'").set_index("method")["value"]
    assert miou["ceiling"] > max(miou["full"], miou["whole_image"])
    assert 0.05 < miou["whole_image"] < 0.3


class OneSentence(ReferSample):
    """One example, with other words."""

    def __init__(self, expression):
        self._example = replace(next(iter(ReferSample())), expression=expression)
        self.keys, self.image_ids = (self._example.key,), (self._example.image_id,)
        self.expressions = (expression,)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self._example


def test_words_that_the_editor_does_not_know_are_said_once(tmp_path):
    editor = load_editor("tiny", device="cpu")
    with pytest.warns(UnknownWordsWarning) as told:
        result = evaluate(editor, OneSentence("the giraffe that is red"), tmp_path / "run")
    (warning,) = [str(w.message) for w in told if w.category is UnknownWordsWarning]
    assert "does not know words in 1 of 1 expressions, 'giraffe' the most often" in warning
    assert result.counts.error == 0, "a mask was made, and it is said what it is worth"


def test_one_example_has_one_noise_wherever_it_is_run(tmp_path, monkeypatch):
    """Evaluation, calibration and study had a rule each: masks were shown that were not scored."""
    from ground_probe.study import Spec, bench

    editor, split = load_editor("tiny", device="cpu"), OneSentence("the red circle")
    seeds = []

    def hear(editor, image, expression, recipe=None, seed=0):
        seeds.append(seed)
        return np.zeros((image.height, image.width), bool)

    evaluate(editor, split, tmp_path / "run", segment=hear, seed=5)
    run = bench.trace
    monkeypatch.setattr(
        bench, "trace", lambda *args, **more: (seeds.append(more["seed"]), run(*args, **more))[1]
    )
    bench.Bench(editor, [split[0]], 5).traces(Recipe())
    seeds.append(Spec(seed=5).noise_seed(split[0].key))
    assert seeds == [seed_of(split[0].key, 5)] * 3
    notebook = Path(__file__).parents[1] / "notebooks" / "30_segmentation.ipynb"
    lines = json.loads(notebook.read_text())["cells"]
    shown = [line for cell in lines for line in cell["source"] if "gp.segment(" in line]
    assert shown and all("seed=seed_of(each.key, seed)" in line for line in shown)
