"""What tells one editor's results from another's: everything that determines the output."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from PIL import Image

import ground_probe as gp
from ground_probe import testing
from ground_probe.editors.identity import identity

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("kontext")
    testing.kontext().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def revision(folder):
    return gp.load_editor(folder, device="cpu").revision


@pytest.fixture
def changed(folder, tmp_path):
    """Copies of the folder with one configuration changed."""

    def change(part, **values):
        import shutil

        path = shutil.copytree(folder, tmp_path / f"{part}-{'-'.join(values)}")
        file = path / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
        return path

    return change


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("vae", {"scaling_factor": 0.8}),
        ("vae", {"shift_factor": 0.2}),
        ("scheduler", {"shift": 2.0}),
        ("text_encoder", {"hidden_act": "gelu"}),
        ("transformer", {"axes_dims_rope": [8, 4, 4]}),
    ],
)
def test_a_configuration_of_any_part_is_another_revision(changed, revision, part, values):
    """At equal weights; digests of `*.safetensors` alone took these for one editor."""
    assert gp.load_editor(changed(part, **values), device="cpu").revision != revision


def test_weights_of_any_file_format_count(folder, revision, tmp_path):
    pipeline = testing.kontext()
    pipeline.save_pretrained(tmp_path / "bin", safe_serialization=False)
    assert gp.load_editor(tmp_path / "bin", device="cpu").revision == revision
    path = next((tmp_path / "bin" / "transformer").glob("*.bin"))
    torch.save({k: v / 2 for k, v in torch.load(path, weights_only=True).items()}, path)
    assert gp.load_editor(tmp_path / "bin", device="cpu").revision != revision


def fuse(pipeline):
    """As peft fuses an adapter: through `.data`, which no version counter of a tensor notices."""
    weight = pipeline.transformer.transformer_blocks[0].attn.to_q.weight
    version = weight._version
    weight.data += torch.outer(torch.ones(len(weight)), torch.ones(weight.shape[1])) * 1e-3
    assert weight._version == version


def add_a_word(pipeline):
    pipeline.tokenizer_2.add_tokens(["zebra"])


def unbend(pipeline):
    pipeline.transformer.transformer_blocks[1].ff.net[0] = torch.nn.Identity()


@pytest.mark.parametrize(
    "change",
    [
        fuse,
        add_a_word,
        unbend,
        lambda pipe: setattr(pipe.tokenizer_2, "model_max_length", 20),
        lambda pipe: setattr(pipe.tokenizer_2, "padding_side", "left"),
        lambda pipe: setattr(pipe, "vae_scale_factor", 16),
        lambda pipe: pipe.vae.register_to_config(scaling_factor=0.8),
        lambda pipe: pipe.transformer.transformer_blocks.__delitem__(1),
        lambda pipe: next(pipe.text_encoder_2.encoder.parameters()).data.neg_(),
        lambda pipe: pipe.to(torch.bfloat16),
        lambda pipe: pipe.transformer.register_buffer("shift", torch.ones(1), persistent=False),
    ],
)  # fmt: skip
def test_an_object_changed_in_place_is_another_editor(revision, change):
    editor = gp.load_editor(testing.kontext())
    assert editor.revision == revision
    change(editor.pipeline)
    assert editor.revision != revision


def test_two_pipelines_of_one_class_are_two_editors():
    one, other = (gp.load_editor(testing.kontext(seed=seed)) for seed in (0, 1))
    assert one.revision != other.revision
    assert one.revision == gp.load_editor(testing.kontext()).revision


@pytest.mark.parametrize("name", testing.BUILDERS)
def test_running_an_editor_leaves_its_revision(name, monkeypatch):
    testing.smaller_images(monkeypatch)
    editor = gp.load_editor(testing.BUILDERS[name]())
    before = editor.revision
    instruction = testing.INSTRUCTIONS.get(name, testing.INSTRUCTION)
    given = {"num_steps": 2, "pipeline_kwargs": testing.ARGUMENTS.get(name, {})}
    gp.trace(editor, Image.new("RGB", (160, 96), "red"), instruction, "circle", **given)
    assert editor.revision == before and "unidentified" not in before


def test_weights_that_accelerate_keeps_elsewhere_count():
    pipeline = testing.kontext()
    before = identity(pipeline)
    from accelerate import cpu_offload

    cpu_offload(pipeline.transformer, torch.device("cpu"))
    assert next(pipeline.transformer.parameters()).is_meta
    assert identity(pipeline) == before


def test_what_cannot_be_described_equals_nothing_not_even_itself(tmp_path):
    editor = gp.load_editor(testing.kontext())
    editor.pipeline.trick = object()
    with pytest.warns(UserWarning, match=r"cannot be identified \(it holds a builtins.object\)"):
        assert editor.revision != editor.revision
    split = gp.load_split("scenes", "test", limit=1)
    options = {"segment": nothing, "methods": ("full",)}
    with pytest.warns(UserWarning, match="cannot be resumed"):
        gp.evaluate(editor, split, tmp_path / "run", **options)
        with pytest.raises(gp.errors.InputError, match="model"):
            gp.evaluate(editor, split, tmp_path / "run", **options)


def nothing(editor, image, expression, recipe=None, seed=0):
    import numpy as np

    return np.zeros((image.height, image.width), bool)


def test_an_evaluation_is_not_resumed_with_other_weights(tmp_path):
    """Half before a change and half after it were merged as one evaluation."""
    editor = gp.load_editor(testing.kontext())
    split = gp.load_split("scenes", "test", limit=2)
    gp.evaluate(editor, split, tmp_path / "run", segment=nothing)
    gp.evaluate(editor, split, tmp_path / "run", segment=nothing)
    fuse(editor.pipeline)
    with pytest.raises(gp.errors.InputError, match="model"):
        gp.evaluate(editor, split, tmp_path / "run", segment=nothing)


def test_samples_are_not_reused_with_other_weights(tmp_path):
    from ground_probe.study import Spec, collect

    editor, split = gp.load_editor(testing.kontext()), gp.load_split("scenes", "val", limit=1)
    collect(editor, split, Spec(), tmp_path)
    fuse(editor.pipeline)
    collect(editor, split, Spec(), tmp_path)
    assert len(list(tmp_path.glob("*/settings.json"))) == 2


def test_a_copy_is_the_same_editor(revision):
    assert identity(copy.deepcopy(testing.kontext())) == revision
