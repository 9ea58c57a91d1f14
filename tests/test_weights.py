"""Folders of weights: every one from its file, nothing from a foreign library, one clear line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

import ground_probe as gp
from ground_probe import testing
from ground_probe.cli import main
from ground_probe.errors import GroundProbeError, MissingWeightsError, UnsupportedEditorError

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
CLIP, T5 = "text_encoder/model.safetensors", "text_encoder_2/model.safetensors"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("kontext")
    testing.kontext().save_pretrained(path)
    return path


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "editor")


def weights_changed(name, change):
    def damage(folder):
        tensors = load_file(folder / name)
        save_file(change(dict(tensors)), folder / name, metadata={"format": "pt"})

    return damage


def without(word):
    def change(tensors):
        name = next(name for name in tensors if word in name)
        return {key: value for key, value in tensors.items() if key != name}

    return change


def with_prefix(tensors):
    return {f"module.{key}": value for key, value in tensors.items()}


def first_halved(tensors):
    name = next(name for name, value in tensors.items() if value.ndim == 2)
    return tensors | {name: tensors[name][:1].clone()}


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, keep):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return damage


def config_changed(name, **values):
    def damage(folder):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return damage


def removed(name):
    def damage(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def index(**values):
    return config_changed("model_index.json", **values)


def as_bin(name, content):
    def damage(folder):
        part = folder / name
        for file in part.glob("*.safetensors"):
            file.unlink()
        stem = "diffusion_pytorch_model" if name in ("transformer", "vae") else "pytorch_model"
        content(part / f"{stem}.bin")

    return damage


class Code:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def pickled(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Code()))
        archive.writestr("archive/version", "3")


def sharded_with_a_gap(folder):
    tensors = load_file(folder / TRANSFORMER)
    where = dict.fromkeys(tensors, "diffusion_pytorch_model-00001-of-00001.safetensors")
    tensors.popitem()
    (folder / TRANSFORMER).unlink()
    save_file(tensors, folder / "transformer" / next(iter(where.values())))
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    file.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))


DAMAGES = {
    "a tensor removed from CLIP": (weights_changed(CLIP, without("layer_norm1")), "1 weights are "),
    "a tensor removed from T5": (weights_changed(T5, without("SelfAttention.q")), "not in its fi"),
    "a tensor removed from the denoiser": (weights_changed(TRANSFORMER, without("to_q")), "to_q"),
    "a tensor removed from the autoencoder": (
        weights_changed("vae/diffusion_pytorch_model.safetensors", without("conv_in")), "conv_in"),
    "keys renamed in T5": (weights_changed(T5, with_prefix), "have no place in it, as 'module."),
    "keys renamed in the denoiser": (weights_changed(TRANSFORMER, with_prefix), "have no place"),
    "a tensor too many": (
        weights_changed(CLIP, lambda t: t | {"extra": torch.ones(1)}), "in it, as 'extra'"),
    "a shard with a gap": (sharded_with_a_gap, "transformer"),
    "another shape": (weights_changed(TRANSFORMER, first_halved), "transformer cannot be loaded"),
    "another shape in T5": (weights_changed(T5, first_halved), "text_encoder_2 cannot be loaded"),
    "weights cut in half": (cut(TRANSFORMER, 0.5), "transformer cannot be loaded"),
    "weights cut in their header": (cut(CLIP, 0.01), "text_encoder cannot be loaded"),
    "empty weights": (written(TRANSFORMER, b""), "is empty"),
    "a web page for weights": (written(CLIP, b"<!DOCTYPE html><html>no"), "is a web page"),
    "a Git LFS pointer": (written(TRANSFORMER, LFS), "is a Git LFS pointer"),
    "a Git LFS pointer for a tokenizer": (written("tokenizer_2/tokenizer.json", LFS), "Git LFS po"),
    "a header that is too long": (written(T5, b"\xff" * 7 + b"\x7f" + b"{}"), "cannot be loaded"),
    "no weights": (removed(TRANSFORMER), "transformer cannot be loaded"),
    "no part": (removed("text_encoder_2"), "text_encoder_2 cannot be loaded"),
    "no configuration": (removed("vae/config.json"), "vae cannot be loaded"),
    "no scheduler": (removed("scheduler/scheduler_config.json"), "cannot be loaded"),
    "an empty configuration": (written("transformer/config.json", b""), "config.json is empty"),
    "a cut configuration": (cut("text_encoder/config.json", 0.5), "text_encoder cannot be loaded"),
    "a list for a configuration": (written("vae/config.json", b"[]"), "vae"),
    "words for numbers": (config_changed("transformer/config.json", num_layers="two"), "transfor"),
    "endless layers": (config_changed("transformer/config.json", num_layers=2000), "not in its"),
    "an empty index": (written("model_index.json", b""), "model_index.json is empty"),
    "a list for an index": (written("model_index.json", b"[]"), "model_index.json cannot be"),
    "an index without a class": (written("model_index.json", b"{}"), "model_index.json cannot be"),
    "a nested index": (written("model_index.json", b"[" * 100_000), "model_index.json cannot be"),
    "an unknown pipeline": (index(_class_name="NoSuchPipeline"), "code that comes with weights"),
    "a pipeline's own code": (index(_class_name=["mine", "Mine"]), "code that comes with weights"),
    "a pipeline that is a module": (index(_class_name="utils"), "code that comes with weights"),
    "a pipeline that is no editor": (index(_class_name="FluxPipeline"), "takes no `image` and"),
    "a foreign library": (index(vae=["os", "system"]), "only parts of diffusers and transformers"),
    "a module by its path": (index(vae=["diffusers.utils", "logging"]), "only parts of diffusers"),
    "a part with code of its own": (index(vae=["vae", "Mine", "repo"]), "only parts of diffusers"),
    "a class that is none": (index(transformer=["diffusers", "logging"]), "only parts of"),
    "another part's class": (index(transformer=["diffusers", "AutoencoderKL"]), "transformer"),
    "pickled code": (as_bin("transformer", pickled), "transformer cannot be loaded"),
    "pickled code in a text encoder": (as_bin("text_encoder", pickled), "text_encoder cannot be"),
    "a .bin that is empty": (as_bin("transformer", lambda path: path.touch()), ".bin is empty"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_or_hostile_folder_is_one_clear_line(kind, folder, tmp_path, monkeypatch):
    damage, message = DAMAGES[kind]
    damage(folder)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(GroundProbeError) as caught:
            gp.load_editor(folder, device="cpu")
    text = str(caught.value)
    assert message in text and "\n" not in text and len(text) < 700
    assert isinstance(caught.value, MissingWeightsError | UnsupportedEditorError)
    assert not (tmp_path / "executed").exists()


def test_the_command_line_does_not_hide_what_was_not_loaded(folder, tmp_path, capsys):
    """Its quieter log took transformers' table of missing keys away; `segment` exited with 0."""
    weights_changed(T5, with_prefix)(folder)
    photo = tmp_path / "photo.png"
    gp.load_split("scenes", "test", limit=1)[0].image.save(photo)
    assert main(["segment", str(photo), "the circle", "--model", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "does not hold the weights of its T5EncoderModel" in line


@pytest.mark.parametrize("way", [{"safe_serialization": False}, {"max_shard_size": "20KB"}])
def test_other_ways_to_save_load_as_the_same_editor(whole, tmp_path, way):
    gp.load_editor(whole, device="cpu").pipeline.save_pretrained(tmp_path / "other", **way)
    files = {file.suffixes[-1] for file in (tmp_path / "other" / "transformer").iterdir()}
    assert files == (
        {".json", ".bin"} if "safe_serialization" in way else {".json", ".safetensors"}
    )
    one, other = (gp.load_editor(path, device="cpu") for path in (whole, tmp_path / "other"))
    assert one.revision == other.revision


def test_tied_weights_and_old_positions_are_no_gaps(folder):
    """T5 ties its embedding, CLIP saved its positions once: neither is missing or unused."""
    tensors = load_file(folder / T5)
    tied = {name for name in tensors if name in ("shared.weight", "encoder.embed_tokens.weight")}
    assert len(tied) == 1, "one name is in the file, two are in the model"
    positions = {"embeddings.position_ids": torch.arange(16)[None]}
    prefix = (
        "text_model."
        if any(key.startswith("text_model.") for key in load_file(folder / CLIP))
        else ""
    )
    weights_changed(CLIP, lambda t: t | {prefix + k: v for k, v in positions.items()})(folder)
    gp.load_editor(folder, device="cpu")


def test_a_modular_pipeline_is_refused_for_what_it_is():
    from diffusers import ModularPipeline

    class Blocks(ModularPipeline):
        def __init__(self):
            pass

    with pytest.raises(UnsupportedEditorError, match="put together anew for each call"):
        gp.load_editor(Blocks())
